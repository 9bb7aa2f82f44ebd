"""Stage embedding, actor and critic of M members side by side: the first dimension of every tensor is the member."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


class StackedLinear(nn.Module):
    """M linear layers: x [M, N, in] -> x W + b [M, N, out], each initialised as :class:`torch.nn.Linear` is."""

    def __init__(self, members: int, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = inputs**-0.5
        self.weight = nn.Parameter(torch.empty(members, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(members, outputs).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """All members' outputs in one batched product."""
        return torch.baddbmm(self.bias.unsqueeze(1), x, self.weight)


class StageEmbedding(nn.Module):
    """The learned e_T of every stage (Equation 5), Gaussian initialised: stages [M, N] -> embeddings [M, N, d]."""

    def __init__(self, members: int, stages: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(members, stages, width))

    def forward(self, stage: Tensor) -> Tensor:
        """The embedding of each stage, by each member's own table."""
        return self.weight.gather(1, stage.unsqueeze(-1).expand(-1, -1, self.weight.shape[-1]))


def perceptron(members: int, inputs: int, hidden: Sequence[int], outputs: int) -> nn.Sequential:
    """Linear layers with ReLU between them; three hidden widths make the paper's four layers."""
    widths = [inputs, *hidden]
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(widths):
        layers += [StackedLinear(members, fan_in, fan_out), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, StackedLinear(members, widths[-1], outputs))


class Actor(nn.Module):
    """mu(s): states [M, N, S] -> theta [M, N, A] within the bound, if there is one (Equation 4).

    Adam changes all outputs of a network at the same rate. But where b, theta's last entry, is far below zero, a
    difference of x in theta . f changes a weight by the factor exp(2 x), so the entries for features are scaled by
    ``feature_scale`` relative to b. With ``zero`` a new strategy gives every sample a weight of exactly 1.

    A prior maps noise_smooth [...], the last number of a state, to a theta [..., A], about which the bound holds.
    """

    def __init__(
        self,
        members: int,
        state_dim: int,
        action_dim: int,
        hidden: Sequence[int],
        bound: float | None,
        feature_scale: float,
        zero: bool,
        prior: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.bound = bound
        self.prior = prior
        self.scale: Tensor
        self.register_buffer("scale", torch.tensor([feature_scale] * (action_dim - 1) + [1.0]), persistent=False)
        self.network = perceptron(members, state_dim, hidden, action_dim)
        if zero:
            for parameter in self.network[-1].parameters():
                nn.init.zeros_(parameter)

    def forward(self, state: Tensor) -> Tensor:
        """Theta for every state."""
        return self.theta(state, self.free(state))

    def free(self, state: Tensor) -> Tensor:
        """The scaled output before the bound."""
        output: Tensor = self.network(state)
        return output * self.scale

    def theta(self, state: Tensor, free: Tensor) -> Tensor:
        """The scaled output brought within the bound, about the prior."""
        bounded = free if self.bound is None else self.bound * torch.tanh(free / self.bound)
        return bounded if self.prior is None else bounded + self.prior(state[..., -1])


class Critic(nn.Module):
    """Q(s, theta): states [M, N, S] and theta [M, N, A] -> values [M, N]."""

    def __init__(self, members: int, state_dim: int, action_dim: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.network = perceptron(members, state_dim + action_dim, hidden, 1)

    def forward(self, state: Tensor, theta: Tensor) -> Tensor:
        """The value of theta in every state."""
        value: Tensor = self.network(torch.cat([state, theta], dim=-1))
        return value.squeeze(-1)
