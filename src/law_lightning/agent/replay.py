"""The replay buffer: every transition (s_T, theta_T, r_T, s_{T+1}, Done) of every episode."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from law_lightning import functional as LF
from law_lightning.stages.schedule import TrainingPhase
from law_lightning.utilities.files import is_finite, load_state, save_state


class Transitions(NamedTuple):
    """N transitions as tensors. A phase is stored as its stage and numbers, as the stage's embedding is learned."""

    stage: Tensor  # [N] int64
    phase: Tensor  # [N, 3]: loss_smooth, acc_smooth, noise_smooth
    theta: Tensor  # [N, A]
    reward: Tensor  # [N]
    next_stage: Tensor  # [N] int64
    next_phase: Tensor  # [N, 3]
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

    def batches(self, order: Tensor, size: int) -> Iterator[Returns]:
        """The rows in an order, [M, n], in batches of ``size``: columns [M, size, ...]."""
        return map(Returns._make, zip(*(column[order].split(size, dim=1) for column in self), strict=True))


def single_transition(
    phase: TrainingPhase, theta: Tensor, reward: float, next_phase: TrainingPhase, done: bool
) -> Transitions:
    """One transition, N = 1; a ValueError where a number in it is not finite: the update would make all of them NaN."""
    row = Transitions(
        stage=torch.tensor([phase.stage]),
        phase=torch.tensor([phase.numbers]),
        theta=theta.detach().to("cpu", torch.float32, copy=True).unsqueeze(0),  # the caller may write into its own
        reward=torch.tensor([float(reward)]),
        next_stage=torch.tensor([next_phase.stage]),
        next_phase=torch.tensor([next_phase.numbers]),
        done=torch.tensor([float(done)]),
    )
    if not is_finite(row):
        raise ValueError(f"A transition must be finite, not {row}.")
    return row


def upgraded(columns: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Columns of transitions of any version: the phases of earlier ones had no noise_smooth."""
    return {
        name: F.pad(column, (0, 1)) if name.endswith("phase") and column.shape[-1] == 2 else column
        for name, column in columns.items()
    }


def joined(parts: Iterable[Transitions]) -> Transitions:
    """Concatenated transitions."""
    return Transitions(*map(torch.cat, zip(*parts, strict=True)))


def n_step_transitions(transitions: Transitions, steps: int, discount: float) -> Returns:
    """Transitions over up to ``steps`` stages each, within their episodes."""
    linked = torch.zeros_like(transitions.stage, dtype=torch.bool)
    linked[:-1] = (transitions.done[:-1] == 0) & (transitions.stage[1:] == transitions.next_stage[:-1])
    returns, count = LF.n_step_returns(transitions.reward, linked, steps, discount)
    last = torch.arange(len(count)) + count - 1
    ahead = {name: getattr(transitions, name)[last] for name in ("next_stage", "next_phase", "done")}
    return Returns(*transitions._replace(reward=returns, **ahead), torch.as_tensor(discount) ** count)


def shuffles(count: int, epochs: float, members: int, generator: torch.Generator) -> Iterator[Tensor]:
    """For each pass the rows that every member learns from, in a random order of its own, [M, n] with n <= N."""
    left = math.ceil(epochs * count / members)
    while left > 0:
        yield torch.stack([torch.randperm(count, generator=generator)[:left] for _ in range(members)])
        left -= count


class ReplayBuffer:
    """Grows by one transition a stage; a full data update reads all of it.

    Args:
        capacity: how many transitions are kept; the oldest go first. None keeps all.

    Attributes:
        workers: how many workers' transitions it holds.
    """

    workers = 1

    def __init__(self, capacity: int | None = None) -> None:
        if capacity is not None and not (isinstance(capacity, int) and capacity > 0):
            raise ValueError(f"capacity must be at least 1 or None, not {capacity!r}.")
        self.capacity = capacity
        self._columns: Transitions | None = None

    def __len__(self) -> int:
        return 0 if self._columns is None else len(self._columns.reward)

    def add(self, phase: TrainingPhase, theta: Tensor, reward: float, next_phase: TrainingPhase, done: bool) -> None:
        """Keep one transition.

        Raises:
            ValueError: a number in it is not finite.
        """
        self.extend(single_transition(phase, theta, reward, next_phase, done))

    def extend(self, transitions: Transitions) -> None:
        """Append transitions in their order; those beyond the capacity are dropped, the oldest first."""
        whole = transitions if self._columns is None else joined([self._columns, transitions])
        self._columns = Transitions(*(column[-(self.capacity or 0) :] for column in whole))

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
        capacity, columns = ReplayBuffer(state["capacity"]).capacity, None
        if state["columns"]:
            columns = Transitions(**{name: column.clone() for name, column in upgraded(state["columns"]).items()})
            phase = TrainingPhase(0, 1, 0.0, 0.0)
            like = single_transition(phase, torch.zeros(columns.theta.shape[-1]), 0.0, phase, False)
            wanted = [(each.dtype, (len(columns.reward), *each.shape[1:])) for each in like]
            found = [(each.dtype, tuple(each.shape)) for each in columns]
            if not len(columns.reward) or found != wanted or not is_finite(columns):
                raise ValueError(f"The columns of a replay buffer must be finite, and like {wanted}, not {found}.")
        self.capacity, self._columns = capacity, columns

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
        except Exception as error:  # a foreign state can fail in any way
            raise ValueError(f"{path} is not a complete replay file: {error!r}.") from error
        return buffer


def transitions_of(loader: Any) -> Transitions:
    """What :meth:`ReplayBuffer.dataloader` put into a loader; a MisconfigurationException for any other."""
    data = loader.dataset if isinstance(loader, DataLoader) else None
    if not isinstance(data, TensorDataset) or len(data.tensors) != len(Transitions._fields) + 1:
        raise MisconfigurationException(
            "A StrategyAgent trains on transitions: Trainer().fit(agent, buffer.dataloader()) with a ReplayBuffer."
        )
    return Transitions(*data.tensors[:-1])
