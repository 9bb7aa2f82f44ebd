"""Transitions laid out for the update: shuffled once for a whole pass, then cut into batches without copying."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from law_lightning.agent.replay import Transitions


class Bootstrap(NamedTuple):
    """The M rows of a batch whose future the critic values (Equation 12): what follows them counts."""

    rows: Tensor  # [M] int64, positions in the batch
    stage: Tensor  # [M] int64, the next stages
    inputs: Tensor  # [M, d + 2 + A]: room for e_{T+1}, the next phase's numbers, room for theta
    reward: Tensor  # [M]
    done: Tensor  # [M]
    discount: Tensor  # [M]


class Batch(NamedTuple):
    """N transitions. The update writes into ``inputs`` and ``bootstrap.inputs``."""

    stage: Tensor  # [N] int64
    inputs: Tensor  # [N, d + 2 + A], the critic's: room for e_T, the phase's numbers, theta
    reward: Tensor  # [N]
    bootstrap: Bootstrap | None  # None: no row has a future that counts


class PackedTransitions:
    """All transitions of an update, N of them.

    Args:
        transitions: as a full data update learns from them.
        discount: gamma^n for each, [N].
        embedding_dim: d.
    """

    def __init__(self, transitions: Transitions, discount: Tensor, embedding_dim: int) -> None:
        room = transitions.phase.new_zeros(len(discount), embedding_dim)
        self._stage, self._reward = transitions.stage, transitions.reward
        self._inputs = torch.cat([room, transitions.phase, transitions.theta], dim=1)
        self._ahead = torch.cat([room, transitions.next_phase, torch.zeros_like(transitions.theta)], dim=1)
        self._next_stage, self._done, self._discount = transitions.next_stage, transitions.done, discount
        self._counts = (transitions.done == 0) & (discount != 0)

    def to(self, device: torch.device) -> PackedTransitions:
        """Move all of it to a device."""
        for name, column in vars(self).items():
            setattr(self, name, column.to(device))
        return self

    def __len__(self) -> int:
        return len(self._reward)

    def batches(self, order: Tensor, batch_size: int) -> Iterator[Batch]:
        """Batches of the rows in ``order``, [n]; the last may be smaller."""
        stage, inputs, reward = self._stage[order], self._inputs[order], self._reward[order]
        counts = self._counts[order]
        places = counts.nonzero().squeeze(1)
        rows = order[places]
        ahead = Bootstrap(
            places % batch_size, self._next_stage[rows], self._ahead[rows], self._reward[rows], self._done[rows],
            self._discount[rows],
        )  # fmt: skip
        ends = [0, *(int(part.sum()) for part in counts.split(batch_size))]
        for i, start in enumerate(range(0, len(order), batch_size)):
            end = start + batch_size
            ends[i + 1] += ends[i]
            here = slice(ends[i], ends[i + 1])
            bootstrap = Bootstrap(*(column[here] for column in ahead)) if here.start < here.stop else None
            yield Batch(stage[start:end], inputs[start:end], reward[start:end], bootstrap)
