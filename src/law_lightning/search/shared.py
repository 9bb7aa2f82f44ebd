"""The replay buffer that all workers share."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from law_lightning.agent import ReplayBuffer
from law_lightning.agent.replay import Transitions, joined, single_transition
from law_lightning.search.workers import Workers
from law_lightning.stages.schedule import TrainingPhase


class SharedBuffer(ReplayBuffer):
    r"""The transitions of all workers, the same in each.

    .. math:: \frac{1}{N_a} \sum_{w=1}^{N_a} \frac{1}{B} \sum_{i \in b_w} \nabla L_i = \frac{1}{N_a B} \sum_{i \in
        b_1 \cup \dots \cup b_{N_a}} \nabla L_i

    The mean of N_a workers' gradients (Equations 10 and 13), each of B transitions, is the gradient of N_a B
    transitions. The strategy is so small that a gradient takes longer to send than to compute, at every batch. So
    workers gather the transitions of a stage, a few numbers, and take the same update, bit for bit. ``buffers`` holds
    each worker's transitions so far, by rank; of ``capacity`` transitions each worker has the same share, its newest.
    """

    def __init__(self, workers: Workers, buffers: Sequence[ReplayBuffer], capacity: int | None = None) -> None:
        super().__init__(capacity)
        self.workers = workers.size
        self._group = workers
        self._parts = [ReplayBuffer(None if capacity is None else -(-capacity // workers.size)) for _ in buffers]
        self._new: list[list[Transitions]] = [[] for _ in buffers]
        for part, buffer in zip(self._parts, buffers, strict=True):
            if len(buffer):
                part.extend(buffer.transitions())
        self._join()

    def add(self, phase: TrainingPhase, theta: Tensor, reward: float, next_phase: TrainingPhase, done: bool) -> None:
        """Keep the transition of every worker; all call this, or :meth:`skip`, at the end of the same stage."""
        self._gather(list(single_transition(phase, theta, reward, next_phase, done)))

    def skip(self) -> None:
        """Take part in a stage that this worker's training did not reach."""
        self._gather(None)

    def take_new(self) -> list[dict[str, Tensor]]:
        """The columns of each worker's transitions, by rank, since this was last called; none where there are none."""
        new, self._new = self._new, [[] for _ in self._new]
        return [joined(rows)._asdict() if rows else {} for rows in new]

    def _gather(self, mine: list[Tensor] | None) -> None:
        for rank, theirs in enumerate(self._group.gather(mine)):
            if theirs is not None:
                row = Transitions(*theirs)
                self._new[rank].append(row)
                self._parts[rank].extend(row)
        self._join()

    def _join(self) -> None:
        filled = [part.transitions() for part in self._parts if len(part)]
        self._columns = joined(filled) if filled else None
