"""The agent's parameters as the update sees them: flat tensors, views of them, and the optimizers on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from law_lightning.agent import adam
from law_lightning.agent.backprop import Layer, Perceptron
from law_lightning.agent.flat import Flat
from law_lightning.agent.networks import Actor, Critic


class Modules(NamedTuple):
    """The networks, or the target networks."""

    critic: Critic
    actor: Actor
    embedding: nn.Embedding

    def parts(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """What the critic's step learns, and what the actor's does."""
        return list(self.critic.parameters()), [*self.actor.parameters(), *self.embedding.parameters()]

    def parameters(self) -> list[nn.Parameter]:
        """Both parts."""
        critic, actor = self.parts()
        return critic + actor


class Views(NamedTuple):
    """The networks' parameters, and where their gradients go."""

    critic: Perceptron
    actor: Perceptron
    embedding: Tensor  # [T_max, d]
    embedding_gradient: Tensor  # [T_max, d]


class Learner:
    """Lays networks out in flat tensors and keeps their optimizers.

    Args:
        fast: the networks that learn.
        slow: the target networks; None: there are none.
        rates: Adam's learning rates for the critic, and for actor and embedding.

    Attributes:
        optimizers: Adam for the critic and for actor and embedding, each on its part of the flat tensor; the same
            two for as long as the agent lives.
        networks: views of the networks.
        targets: views of the target networks, or of the networks themselves where there are none.
        gradients: the flat gradients of both parts.
    """

    def __init__(self, fast: Modules, slow: Modules | None, rates: tuple[float, float]) -> None:
        self._fast, self._slow = fast, slow
        self.optimizers = [torch.optim.Adam([nn.Parameter(torch.empty(0))], lr=rate, fused=True) for rate in rates]
        self._lay_out()

    def _lay_out(self) -> None:
        critic, actor = self._fast.parts()
        self._flat = Flat(critic + actor)
        self._flat_slow = None if self._slow is None else Flat(self._slow.parameters())
        self.networks = _views(self._flat, self._fast)
        self.targets = self.networks
        if self._slow is not None and self._flat_slow is not None:
            self.targets = _views(self._flat_slow, self._slow)
        border = self._flat.start(actor[0])
        parts = slice(None, border), slice(border, None)
        self.gradients = self._flat.gradient[parts[0]], self._flat.gradient[parts[1]]
        for optimizer, part, gradient in zip(self.optimizers, parts, self.gradients, strict=True):
            (values,) = optimizer.param_groups[0]["params"]
            values.grad = None  # it may lie on another device
            values.data = self._flat.values[part]
            values.grad = gradient

    def refresh(self) -> None:
        """Lay the parameters out anew where they were moved or replaced since."""
        slow = [] if self._slow is None else self._slow.parameters()
        if not self._flat.holds(self._fast.parameters()) or (self._flat_slow and not self._flat_slow.holds(slow)):
            self._lay_out()

    def release(self) -> None:
        """Give every parameter memory of its own, until :meth:`refresh` is called: it is pickled with all of it."""
        for parameter in self._fast.parameters() + ([] if self._slow is None else self._slow.parameters()):
            parameter.data = parameter.data.clone()

    def follow(self, rate: float) -> None:
        """Draw the target networks towards the networks, if there are any."""
        if self._flat_slow is not None:
            self._flat_slow.values.lerp_(self._flat.values, rate)

    def numbers(self) -> Tensor:
        """All that learning depends on, [n]: the parameters, target networks, and what the optimizers remember."""
        return torch.cat([each.reshape(-1) for each in self._parts()])

    def take(self, numbers: Tensor) -> None:
        """Go on where :meth:`numbers` was taken, of the same networks in another process."""
        parts = self._parts()
        for part, new in zip(parts, numbers.split([each.numel() for each in parts]), strict=True):
            part.copy_(new.view_as(part))

    def _parts(self) -> list[Tensor]:
        slow = [] if self._flat_slow is None else [self._flat_slow.values]
        return [self._flat.values, *slow, *(each for optimizer in self.optimizers for each in adam.moments(optimizer))]

    def optimizer_states(self) -> list[dict[str, Any]]:
        """What the optimizers remember, parameter by parameter."""
        return [
            adam.parameter_state(optimizer, self._flat, part)
            for optimizer, part in zip(self.optimizers, self._fast.parts(), strict=True)
        ]

    def load_optimizer_states(self, states: Sequence[dict[str, Any]]) -> None:
        """Give them what :meth:`optimizer_states` took."""
        for optimizer, part, state in zip(self.optimizers, self._fast.parts(), states, strict=True):
            adam.load_parameter_state(optimizer, self._flat, part, state)


def _views(flat: Flat, modules: Modules) -> Views:
    def gradient(parameter: Tensor) -> Tensor:
        assert isinstance(parameter, nn.Parameter)
        return flat.part(flat.gradient, parameter)

    def perceptron(network: nn.Module) -> Perceptron:
        linear = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
        return Perceptron([
            Layer(at.weight.data, at.bias.data, at.weight.data.t(), gradient(at.weight), gradient(at.bias))
            for at in linear
        ])  # fmt: skip

    weight = modules.embedding.weight
    return Views(perceptron(modules.critic), perceptron(modules.actor), weight.data, gradient(weight))
