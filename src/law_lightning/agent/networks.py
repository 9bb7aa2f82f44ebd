"""Actor and critic: small perceptrons with four layers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn


def perceptron(inputs: int, hidden: Sequence[int], outputs: int) -> nn.Sequential:
    """Linear layers with ReLU between them; three hidden widths make the paper's four layers."""
    widths = [inputs, *hidden]
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(widths):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], outputs))


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
    """mu(s): training phase [N, S] -> theta [N, A] (Equation 4).

    Adam moves all outputs of a network alike, so they are multiplied by a scale of their own.

    Args:
        state_dim: S.
        scale: of each output, [A] (:func:`action_scale`).
        hidden: widths of the hidden layers.
        bound: theta lies in (-bound, bound) through a tanh; None leaves it free.
        zero: the last layer starts at zero, so that a new strategy gives every sample a weight of exactly 1.
    """

    def __init__(self, state_dim: int, scale: Tensor, hidden: Sequence[int], bound: float | None, zero: bool) -> None:
        super().__init__()
        self.bound = bound
        self.scale: Tensor
        self.register_buffer("scale", scale, persistent=False)
        self.network = perceptron(state_dim, hidden, len(scale))
        last = self.network[-1]
        if zero and isinstance(last, nn.Linear):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, state: Tensor) -> Tensor:
        """Theta for every state."""
        return self.bounded(self.network(state) * self.scale)

    def bounded(self, free: Tensor) -> Tensor:
        """The scaled output brought within the bound."""
        return free if self.bound is None else self.bound * torch.tanh(free / self.bound)


class Critic(nn.Module):
    """Q(s, a): training phase [N, S] and theta [N, A] -> value [N].

    Args:
        state_dim: S.
        action_dim: A.
        hidden: widths of the hidden layers.
    """

    def __init__(self, state_dim: int, action_dim: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.network = perceptron(state_dim + action_dim, hidden, 1)

    def forward(self, state: Tensor, theta: Tensor) -> Tensor:
        """The value of theta in every state."""
        value: Tensor = self.network(torch.cat([state, theta], dim=1))
        return value.squeeze(1)
