"""One actor's and critic's part of a full data update: passes over a buffer, which need not be taken in one place."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from law_lightning.agent import adam
from law_lightning.agent.batches import PackedTransitions
from law_lightning.agent.ddpg import DDPG

_LOGGED = ("critic_loss", "actor_loss", "q_mean")


class Study:
    """The passes of Algorithm 1: each shuffles the whole buffer, and takes a critic and an actor step a batch.

    Args:
        agent: whose networks learn.
        packed: what they learn from.
        batch_size: B.
        imitation: weight of the imitation in the actor's loss.
        shuffle: draws the order of every pass.
        tell: called after every batch.
    """

    def __init__(
        self,
        agent: DDPG,
        packed: PackedTransitions,
        batch_size: int,
        imitation: float,
        shuffle: torch.Generator,
        tell: Callable[[], None],
    ) -> None:
        self._agent, self._packed, self._batch_size, self._imitation = agent, packed, batch_size, imitation
        self._shuffle, self._tell = shuffle, tell
        self._drawn = 0  # orders
        self._steps = [partial(adam.step, optimizer) for optimizer in agent.configure_optimizers()]
        self._sums = torch.zeros(len(_LOGGED) + 1)  # over batches; last, their number

    def run(self, first: int, last: int) -> None:
        """Take the passes from ``first`` up to, but without, ``last``; those before were taken, here or elsewhere."""
        logs: list[Tensor] = []
        counts: list[int] = []
        for number in range(self._drawn, last):
            order = torch.randperm(len(self._packed), generator=self._shuffle)
            if number < first:
                continue
            for batch in self._packed.batches(order, self._batch_size):
                logs.extend(self._agent._update(batch, self._steps, self._imitation))
                counts.append(len(batch.reward))
                self._tell()
        self._drawn = last
        means = torch.stack(logs).view(-1, len(_LOGGED)) / torch.tensor(counts).unsqueeze(1)
        self._sums += torch.cat([means.sum(dim=0), torch.tensor([float(len(counts))])])

    def numbers(self) -> Tensor:
        """All that the next pass depends on, in a tensor of its own."""
        return torch.cat([self._agent.learner().numbers(), self._sums])

    def take(self, numbers: Tensor) -> None:
        """Go on where :meth:`numbers` was taken, of the same agent's study in another process."""
        learned, self._sums = numbers.split([len(numbers) - len(self._sums), len(self._sums)])
        self._agent.learner().take(learned)

    def means(self) -> dict[str, float]:
        """Means over all batches: ``critic_loss``, ``actor_loss``, ``q_mean``."""
        return dict(zip(_LOGGED, (self._sums[:-1] / self._sums[-1]).tolist(), strict=True))
