"""The replay buffer: every transition (s_T, theta_T, r_T, s_{T+1}, Done) of every episode."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from law_lightning import functional as LF
from law_lightning.stages.schedule import TrainingPhase
from law_lightning.utilities.files import is_finite, load_state, save_state

if TYPE_CHECKING:
    from law_lightning.agent.study import Study


class Transitions(NamedTuple):
    """N transitions as tensors. A phase is kept as its stage and numbers: the embedding of the stage is learned."""

    stage: Tensor  # [N] int64
    phase: Tensor  # [N, 2]: loss_smooth, acc_smooth
    theta: Tensor  # [N, A]
    reward: Tensor  # [N]
    next_stage: Tensor  # [N] int64
    next_phase: Tensor  # [N, 2]
    done: Tensor  # [N], 0 or 1


def single_transition(
    phase: TrainingPhase, theta: Tensor, reward: float, next_phase: TrainingPhase, done: bool
) -> Transitions:
    """One transition, without the dimension N.

    Raises:
        ValueError: a number in it is not finite; it would poison the strategy.
    """
    row = Transitions(
        stage=torch.tensor(phase.stage),
        phase=torch.tensor([phase.loss_smooth, phase.acc_smooth]),
        theta=theta.detach().float().cpu(),
        reward=torch.tensor(float(reward)),
        next_stage=torch.tensor(next_phase.stage),
        next_phase=torch.tensor([next_phase.loss_smooth, next_phase.acc_smooth]),
        done=torch.tensor(float(done)),
    )
    if not all(bool(column.isfinite().all()) for column in row):
        raise ValueError(f"A transition must be finite, not {row}.")
    return row


def n_step_transitions(transitions: Transitions, steps: int, discount: float) -> tuple[Transitions, Tensor]:
    """Transitions that lead over up to ``steps`` stages, as far as an episode goes.

    Args:
        transitions: of single stages, in the order in which they were made.
        steps: n.
        discount: gamma.

    Returns:
        The transitions, their rewards summed up and their next phases n stages on; and gamma^n for each, [N].
    """
    linked = torch.zeros_like(transitions.stage, dtype=torch.bool)
    linked[:-1] = (transitions.done[:-1] == 0) & (transitions.stage[1:] == transitions.next_stage[:-1])
    returns, count = LF.n_step_returns(transitions.reward, linked, steps, discount)
    last = torch.arange(len(count)) + count - 1
    ahead = {name: getattr(transitions, name)[last] for name in ("next_stage", "next_phase", "done")}
    return transitions._replace(reward=returns, **ahead), torch.as_tensor(discount) ** count


def _check_columns(columns: dict[str, Tensor]) -> None:
    """Raise a ValueError that names the first column which :func:`single_transition` could not have led to."""
    for name, column in columns.items():
        whole, wide = name.endswith("stage"), name.endswith("phase") or name == "theta"
        right = column.dtype == (torch.int64 if whole else torch.float32) and column.ndim == (2 if wide else 1)
        # One number that stands for any number of rows is not contiguous: a copy might fill the memory.
        if (
            not right
            or not column.is_contiguous()
            or (name.endswith("phase") and column.shape[1] != 2)
            or not is_finite(column)
        ):
            raise ValueError(
                f"{name} of the transitions must be finite numbers, one or a row for each, not {column.dtype} of "
                f"shape {list(column.shape)}."
            )
        if whole and bool((column < 0).any()):
            raise ValueError(f"{name} of the transitions must be at least 0, not {int(column.min())}.")


class ReplayBuffer:
    """Grows by one transition a stage; a full data update reads all of it.

    Args:
        capacity: how many transitions are kept; the oldest go first. None keeps all.

    Attributes:
        workers: how many workers' transitions it holds.
    """

    workers = 1

    def __init__(self, capacity: int | None = None) -> None:
        if capacity is not None and capacity < 1:
            raise ValueError(f"capacity must be at least 1 or None, not {capacity}.")
        self.capacity = capacity
        self._columns: Transitions | None = None
        self._first = self._size = 0  # the rows in use

    def __len__(self) -> int:
        return self._size

    def add(self, phase: TrainingPhase, theta: Tensor, reward: float, next_phase: TrainingPhase, done: bool) -> None:
        """Keep one transition.

        Raises:
            ValueError: a number in it is not finite; it would poison the strategy.
        """
        row = single_transition(phase, theta, reward, next_phase, done)
        if self._columns is None:
            self._columns = Transitions(*(column.new_empty(0, *column.shape) for column in row))
        if len(row.theta) != self._columns.theta.shape[1]:
            raise ValueError(f"theta has length {len(row.theta)}, the buffer's have {self._columns.theta.shape[1]}.")
        if self._size == self.capacity:
            self._first += 1
            self._size -= 1
        end = self._first + self._size
        if end == len(self._columns.reward):  # full: as much room again, so that adding costs O(1) on average
            room = max(64, self._size)
            self._columns = Transitions(
                *(torch.cat([c[self._first : end], c.new_zeros(room, *c.shape[1:])]) for c in self._columns)
            )
            self._first, end = 0, self._size
        for column, value in zip(self._columns, row, strict=True):
            column[end] = value
        self._size += 1

    def extend(self, transitions: Transitions) -> None:
        """Keep transitions that another buffer gave, in their order."""
        columns = self.transitions() if self._size else Transitions(*(column[:0] for column in transitions))
        self._columns = Transitions(
            *(torch.cat([mine, new])[-(self.capacity or 0) :] for mine, new in zip(columns, transitions, strict=True))
        )
        self._first, self._size = 0, len(self._columns.reward)

    def transitions(self) -> Transitions:
        """All transitions, oldest first.

        Raises:
            ValueError: the buffer is empty.
        """
        if self._columns is None or not self._size:
            raise ValueError("The replay buffer is empty: run at least one stage after the warm-up first.")
        return Transitions(*(column[self._first : self._first + self._size] for column in self._columns))

    def take_passes(self, studies: Sequence[Study], passes: Sequence[int]) -> None:
        """Take each study's passes over this buffer. Workers that share one share the passes out."""
        for study, number in zip(studies, passes, strict=True):
            study.run(0, number)

    def dataloader(
        self, batch_size: int = 64, shuffle: bool = True, generator: torch.Generator | None = None
    ) -> DataLoader[tuple[Tensor, ...]]:
        """The buffer as a DataLoader, for ``Trainer().fit(agent, buffer.dataloader(...))``.

        Its batches are the columns of :class:`Transitions` and, last, the rows' positions in the buffer.
        """
        data = TensorDataset(*self.transitions(), torch.arange(len(self)))
        return DataLoader(data, batch_size=batch_size, shuffle=shuffle, generator=generator)

    def state_dict(self) -> dict[str, Any]:
        """All transitions as tensors."""
        columns = {} if not self._size else {k: v.clone() for k, v in self.transitions()._asdict().items()}
        return {"capacity": self.capacity, "columns": columns}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Replace the content by that of ``state``.

        Raises:
            ValueError: the columns are not those of a replay buffer.
        """
        columns: dict[str, Tensor] = state["columns"]
        capacity = state["capacity"]
        if capacity is not None and not (isinstance(capacity, int) and 0 < capacity < 2**63):
            raise ValueError(f"capacity must be at least 1 or None, not {capacity!r}.")
        if not columns:
            self.capacity = capacity
            self._columns, self._first, self._size = None, 0, 0
            return
        if set(columns) != set(Transitions._fields):
            raise ValueError(f"Expected the columns {Transitions._fields}, found {tuple(columns)}.")
        lengths = {len(column) for column in columns.values()}
        if len(lengths) != 1:
            raise ValueError(f"The columns of a replay buffer must be equally long, found lengths {sorted(lengths)}.")
        _check_columns(columns)
        if capacity is not None and lengths.pop() > capacity:
            raise ValueError(f"A replay buffer with a capacity of {capacity} cannot hold more.")
        self.capacity = capacity
        self._columns = Transitions(**{name: columns[name].clone() for name in Transitions._fields})
        self._first, self._size = 0, len(self._columns.reward)

    def save(self, path: str | Path) -> None:
        """Write the buffer to a file that loads with ``weights_only=True``."""
        save_state(path, "replay", self.state_dict())

    @classmethod
    def load(cls, path: str | Path) -> ReplayBuffer:
        """Read a buffer that :meth:`save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is damaged or of another kind.
        """
        buffer, state = cls(), load_state(path, "replay")
        try:
            buffer.load_state_dict(state)
        except Exception as error:  # a state that another program made up can fail in any way
            raise ValueError(f"{path} is not a complete replay file: {error!r}.") from error
        return buffer
