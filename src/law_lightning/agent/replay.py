"""The replay buffer: every transition (s_T, theta_T, r_T, s_{T+1}, Done) of every episode."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from law_lightning import functional as LF
from law_lightning.stages.schedule import TrainingPhase
from law_lightning.utilities.files import is_finite, load_state, save_state


class Transitions(NamedTuple):
    """N transitions as tensors. A phase is kept as its stage and numbers: the embedding of the stage is learned."""

    stage: Tensor  # [N] int64
    phase: Tensor  # [N, 2]: loss_smooth, acc_smooth
    theta: Tensor  # [N, A]
    reward: Tensor  # [N]
    next_stage: Tensor  # [N] int64
    next_phase: Tensor  # [N, 2]
    done: Tensor  # [N], 0 or 1


class Returns(NamedTuple):
    """N transitions of up to n stages each, the columns of :class:`Transitions` and gamma^n."""

    stage: Tensor
    phase: Tensor
    theta: Tensor
    reward: Tensor
    next_stage: Tensor
    next_phase: Tensor
    done: Tensor
    discount: Tensor  # [N]

    def rows(self, index: Tensor) -> Returns:
        """A batch: the rows of an index of any shape, which takes the place of N."""
        return Returns(*(column[index] for column in self))


def single_transition(
    phase: TrainingPhase, theta: Tensor, reward: float, next_phase: TrainingPhase, done: bool
) -> Transitions:
    """One transition, N = 1.

    Raises:
        ValueError: a number in it is not finite; it would poison the strategy.
    """
    row = Transitions(
        stage=torch.tensor([phase.stage]),
        phase=torch.tensor([[phase.loss_smooth, phase.acc_smooth]]),
        theta=theta.detach().float().cpu().unsqueeze(0),
        reward=torch.tensor([float(reward)]),
        next_stage=torch.tensor([next_phase.stage]),
        next_phase=torch.tensor([[next_phase.loss_smooth, next_phase.acc_smooth]]),
        done=torch.tensor([float(done)]),
    )
    if not is_finite(row):
        raise ValueError(f"A transition must be finite, not {row}.")
    return row


def joined(parts: Iterable[Transitions]) -> Transitions:
    """Transitions one after the other."""
    return Transitions(*map(torch.cat, zip(*parts, strict=True)))


def n_step_transitions(transitions: Transitions, steps: int, discount: float) -> Returns:
    """Transitions that lead over up to ``steps`` stages, as far as an episode goes.

    Args:
        transitions: of single stages, in the order in which they were made.
        steps: n.
        discount: gamma.

    Returns:
        The transitions, their rewards summed up and their next phases n stages on.
    """
    linked = torch.zeros_like(transitions.stage, dtype=torch.bool)
    linked[:-1] = (transitions.done[:-1] == 0) & (transitions.stage[1:] == transitions.next_stage[:-1])
    returns, count = LF.n_step_returns(transitions.reward, linked, steps, discount)
    last = torch.arange(len(count)) + count - 1
    ahead = {name: getattr(transitions, name)[last] for name in ("next_stage", "next_phase", "done")}
    return Returns(*transitions._replace(reward=returns, **ahead), torch.as_tensor(discount) ** count)


class ReplayBuffer:
    """Grows by one transition a stage; a full data update reads all of it.

    Args:
        capacity: how many transitions are kept; the oldest go first. None keeps all.

    Attributes:
        workers: how many workers' transitions it holds.
    """

    workers = 1

    def __init__(self, capacity: int | None = None) -> None:
        _check_capacity(capacity)
        self.capacity = capacity
        self._columns: Transitions | None = None

    def __len__(self) -> int:
        return 0 if self._columns is None else len(self._columns.reward)

    def add(self, phase: TrainingPhase, theta: Tensor, reward: float, next_phase: TrainingPhase, done: bool) -> None:
        """Keep one transition.

        Raises:
            ValueError: a number in it is not finite; it would poison the strategy.
        """
        self.extend(single_transition(phase, theta, reward, next_phase, done))

    def extend(self, transitions: Transitions) -> None:
        """Keep transitions that another buffer gave, in their order."""
        parts = [transitions] if self._columns is None else [self._columns, transitions]
        widths = [part.theta.shape[1] for part in parts]
        if widths[0] != widths[-1]:
            raise ValueError(f"theta has length {widths[-1]}, the buffer's have {widths[0]}.")
        self._columns = Transitions(*(column[-(self.capacity or 0) :] for column in joined(parts)))

    def transitions(self) -> Transitions:
        """All transitions, oldest first.

        Raises:
            ValueError: the buffer is empty.
        """
        if self._columns is None:
            raise ValueError("The replay buffer is empty: run at least one stage after the warm-up first.")
        return self._columns

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
        columns = {k: v.clone() for k, v in self.transitions()._asdict().items()} if len(self) else {}
        return {"capacity": self.capacity, "columns": columns}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Replace the content by that of ``state``.

        Raises:
            ValueError: the columns are not those of a replay buffer.
        """
        capacity, columns = state["capacity"], state["columns"]
        _check_capacity(capacity)
        if columns:
            _check_columns(columns)
            if capacity is not None and len(columns["reward"]) > capacity:
                raise ValueError(f"A replay buffer with a capacity of {capacity} cannot hold more.")
        self.capacity = capacity
        self._columns = Transitions(**{n: columns[n].clone() for n in Transitions._fields}) if columns else None

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


def _check_capacity(capacity: Any) -> None:
    if capacity is not None and not (isinstance(capacity, int) and 0 < capacity < 2**63):
        raise ValueError(f"capacity must be at least 1 or None, not {capacity!r}.")


def _check_columns(columns: dict[str, Tensor]) -> None:
    """Raise a ValueError unless columns, of at least one row, are those of a replay buffer."""
    if set(columns) != set(Transitions._fields):
        raise ValueError(f"Expected the columns {Transitions._fields}, found {tuple(columns)}.")
    lengths = {len(column) for column in columns.values()}
    if len(lengths) != 1 or lengths == {0}:
        raise ValueError(f"The columns of a replay buffer must be equally long, found lengths {sorted(lengths)}.")
    phase = TrainingPhase(0, 1, 0.0, 0.0)
    for name, like in single_transition(phase, torch.zeros(1), 0.0, phase, False)._asdict().items():
        column = columns[name]
        width = column.shape[1:] if name == "theta" and column.ndim == 2 else like.shape[1:]
        # One number that stands for any number of rows is not contiguous: a copy might fill the memory.
        right = column.dtype == like.dtype and column.shape[1:] == width and column.is_contiguous()
        if not right or not is_finite(column):
            raise ValueError(
                f"{name} of the transitions must be finite numbers, one or a row for each, not {column.dtype} of "
                f"shape {list(column.shape)}."
            )
        if column.dtype == torch.int64 and bool((column < 0).any()):
            raise ValueError(f"{name} of the transitions must be at least 0, not {int(column.min())}.")
