"""Stage embedding, actor and critic of M members side by side: the first dimension of every tensor is the member."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class StackedLinear(nn.Module):
    """M linear layers: x [M, N, in] -> x W + b [M, N, out], each initialised as :class:`torch.nn.Linear` is.

    Args:
        members: M.
        inputs: width of x.
        outputs: width of the output.
    """

    def __init__(self, members: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(members, inputs, outputs))
        self.bias = nn.Parameter(torch.empty(members, outputs))
        bound = inputs**-0.5
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """All members' outputs in one batched product."""
        return torch.baddbmm(self.bias.unsqueeze(1), x, self.weight)


class StageEmbedding(nn.Module):
    """The learned e_T of every stage (Equation 5), Gaussian initialised.

    Args:
        members: M.
        stages: T_max.
        width: d.
    """

    def __init__(self, members: int, stages: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(members, stages, width))
        self.first: Tensor  # row of each member's first stage, [M, 1]
        self.register_buffer("first", stages * torch.arange(members).unsqueeze(1), persistent=False)

    def forward(self, stage: Tensor) -> Tensor:
        """Stages [M, N] -> embeddings [M, N, d]."""
        return F.embedding(stage + self.first, self.weight.flatten(0, 1))


def perceptron(members: int, inputs: int, hidden: Sequence[int], outputs: int) -> nn.Sequential:
    """Linear layers with ReLU between them; three hidden widths make the paper's four layers."""
    widths = [inputs, *hidden]
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(widths):
        layers += [StackedLinear(members, fan_in, fan_out), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, StackedLinear(members, widths[-1], outputs))


def action_scale(action_dim: int, feature_scale: float) -> Tensor:
    """How far theta's entries move where b moves by 1, [A]: noise on them, and the actor's steps.

    The weighting sums up over features of deviation 1, and where b is far below zero, tanh makes weights of samples
    that differ by x differ by the factor exp(2 x): the weights of features have to be found more carefully than b.

    Args:
        action_dim: A.
        feature_scale: of the weights of features.
    """
    scale = torch.full((action_dim,), feature_scale)
    scale[-1] = 1.0
    return scale


class Actor(nn.Module):
    """mu(s): states [M, N, S] -> theta [M, N, A] (Equation 4).

    Adam moves all outputs of a network alike, so they are multiplied by a scale of their own.

    Args:
        members: M.
        state_dim: S.
        scale: of each output, [A] (:func:`action_scale`).
        hidden: widths of the hidden layers.
        bound: theta lies in (-bound, bound) through a tanh; None leaves it free.
        zero: the last layer starts at zero, so that a new strategy gives every sample a weight of exactly 1.
    """

    def __init__(
        self, members: int, state_dim: int, scale: Tensor, hidden: Sequence[int], bound: float | None, zero: bool
    ) -> None:
        super().__init__()
        self.bound = bound
        self.scale: Tensor
        self.register_buffer("scale", scale, persistent=False)
        self.network = perceptron(members, state_dim, hidden, len(scale))
        if zero:
            for parameter in self.network[-1].parameters():
                nn.init.zeros_(parameter)

    def forward(self, state: Tensor) -> Tensor:
        """Theta for every state."""
        return self.bounded(self.free(state))

    def free(self, state: Tensor) -> Tensor:
        """The scaled output before the bound."""
        output: Tensor = self.network(state)
        return output * self.scale

    def bounded(self, free: Tensor) -> Tensor:
        """The scaled output brought within the bound."""
        return free if self.bound is None else self.bound * torch.tanh(free / self.bound)


class Critic(nn.Module):
    """Q(s, a): states [M, N, S] and theta [M, N, A] -> values [M, N].

    Args:
        members: M.
        state_dim: S.
        action_dim: A.
        hidden: widths of the hidden layers.
    """

    def __init__(self, members: int, state_dim: int, action_dim: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.network = perceptron(members, state_dim + action_dim, hidden, 1)

    def forward(self, state: Tensor, theta: Tensor) -> Tensor:
        """The value of theta in every state."""
        value: Tensor = self.network(torch.cat([state, theta], dim=-1))
        return value.squeeze(-1)
