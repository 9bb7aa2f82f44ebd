"""The replay buffers of all workers, mirrored in each: gradients averaged over workers without sending one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from law_lightning.agent import ReplayBuffer
from law_lightning.agent.replay import Transitions, single_transition
from law_lightning.agent.study import Study
from law_lightning.search.passes import take_passes
from law_lightning.search.workers import Workers
from law_lightning.stages.schedule import TrainingPhase


class SharedBuffer(ReplayBuffer):
    r"""What all workers have gone through.

    .. math:: \frac{1}{N_a} \sum_{w=1}^{N_a} \frac{1}{B} \sum_{i \in b_w} \nabla L_i = \frac{1}{N_a B} \sum_{i \in
        b_1 \cup \dots \cup b_{N_a}} \nabla L_i

    The mean of N_a workers' gradients (Equations 10 and 13), each of B transitions, is the gradient of N_a B
    transitions. The strategy is so small that a gradient takes longer to send than to compute, at every batch. So
    workers send the transition of a stage, a few numbers, and the mean is computed in one place: of one member in every
    worker, bit for bit the same; of several members each worker takes a share of the passes
    (:mod:`law_lightning.search.passes`), and all hear of the outcome at the end of the update.

    Nobody waits for a stage's transitions: they travel while the next stage trains, and arrive at its end. So an update
    learns from all stages of all workers but the one just ended.

    Args:
        workers: the group.
        width: length of theta.
        buffers: what each worker has gone through so far, by rank.
        capacity: how many transitions are kept, each worker's newest; None keeps all.

    Attributes:
        lanes: the transitions of each worker, by rank.
        received: how many of each worker came in, also those that were let go since.
        own: what this worker added; the search puts an empty one here for every episode.
    """

    def __init__(
        self, workers: Workers, width: int, buffers: Sequence[ReplayBuffer], capacity: int | None = None
    ) -> None:
        super().__init__(capacity)
        self.workers = workers.size
        self.own = ReplayBuffer()
        self._share = 0 if capacity is None else -(-capacity // workers.size)
        self.received = [len(buffer) for buffer in buffers]
        self._group, self._width = workers, width
        self._arriving: Callable[[], list[Tensor]] | None = None
        lanes = [buffer.transitions() if len(buffer) else _unpacked(_empty(width), width) for buffer in buffers]
        self.lanes = [self._newest(lane) for lane in lanes]
        self._join()

    def add(self, phase: TrainingPhase, theta: Tensor, reward: float, next_phase: TrainingPhase, done: bool) -> None:
        """Send one transition, and keep those that the workers sent before; all call this at the same stage.

        Raises:
            ValueError: a number in it is not finite; it would poison the strategy.
        """
        self.own.add(phase, theta, reward, next_phase, done)
        self._exchange(_packed(single_transition(phase, theta, reward, next_phase, done)))

    def skip(self) -> None:
        """Take part in a stage that this worker's training did not reach."""
        self._exchange(_empty(self._width))

    def settle(self) -> None:
        """Keep what is still on its way; all call this when an episode has ended."""
        if self._arriving is None:
            return
        for rank, theirs in enumerate(self._arriving()):
            rows = theirs[1:].view(1, -1)[: int(theirs[0])]
            new = _unpacked(rows, self._width)
            self.received[rank] += len(rows)
            self.lanes[rank] = self._newest(Transitions(*map(torch.cat, zip(self.lanes[rank], new, strict=True))))
        self._arriving = None
        self._join()

    def take_passes(self, studies: Sequence[Study], passes: Sequence[int]) -> None:
        """Share the passes out. Those of one member follow one another: all workers take them, and need not wait."""
        if self.workers > 1 and len(studies) > 1:
            take_passes(studies, passes, self._group)
        else:
            super().take_passes(studies, passes)

    def _exchange(self, mine: Tensor) -> None:
        message = torch.zeros(1 + _empty(self._width).shape[1], dtype=torch.float64)
        message[:1] = len(mine)
        message[1:] = mine.sum(0)
        self.settle()
        self._arriving = self._group.send(message)
        if self.workers == 1:  # it has arrived
            self.settle()

    def _newest(self, lane: Transitions) -> Transitions:
        return Transitions(*(column[-self._share :] for column in lane))  # all of it where there is no limit

    def _join(self) -> None:
        self._columns = Transitions(*map(torch.cat, zip(*self.lanes, strict=True)))
        self._size = len(self._columns.reward)


def _empty(width: int) -> Tensor:
    return torch.empty(0, 8 + width, dtype=torch.float64)


def _packed(row: Transitions) -> Tensor:
    """A transition as one row of numbers, [1, 8 + A]; float64 holds each of them exactly."""
    return torch.cat([column.double().view(1, -1) for column in row], dim=1)


def _unpacked(rows: Tensor, width: int) -> Transitions:
    """What :func:`_packed` packed, [N, 8 + A]."""
    stage, phase, theta, reward, next_stage, next_phase, done = rows.float().split((1, 2, width, 1, 1, 2, 1), dim=1)
    return Transitions(
        stage.squeeze(1).long(), phase, theta, reward.squeeze(1), next_stage.squeeze(1).long(), next_phase,
        done.squeeze(1),
    )  # fmt: skip
