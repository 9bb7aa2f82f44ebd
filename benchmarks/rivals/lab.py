"""Where a search trains: one task, seeds of its own, and a ledger of every step."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import lightning as L
import numpy as np

from law_lightning.stages.schedule import StageSchedule
from rivals.schedules import NUM_STAGES, Schedule, weighting_callback
from rivals.training import StepLedger, accuracy, counted, split_of, train
from tasks import Task


def search_seed(search: int, index: int) -> int:
    """A seed of a network that a search may learn from."""
    return int(np.random.SeedSequence([8_001, search, index]).generate_state(1)[0])


def final_seeds(count: int, draw: int) -> list[int]:
    """The seeds that methods are compared on: the same for all, and none of any search."""
    return [int(np.random.SeedSequence([8_002, draw, index]).generate_state(1)[0]) for index in range(count)]


class _Pause(L.Callback):
    """Ends a fit at a step and keeps its checkpoint."""

    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if trainer.global_step >= self.step and not trainer.should_stop:
            trainer.save_checkpoint(self.path)
            trainer.should_stop = True


@dataclass
class Lab:
    """One search's trainings.

    Attributes:
        task: what is trained.
        search: number of the search; decides its seeds, together with the task's draw.
        budget: trainings that it may cost.
        folder: for the ledger and passing checkpoints.
    """

    task: Task
    search: int
    budget: int
    folder: Path

    @cached_property
    def datamodule(self) -> L.LightningDataModule:
        """The data, the same for all trainings."""
        datamodule = self.task.make_datamodule()
        datamodule.setup("fit")
        return datamodule

    @cached_property
    def steps_per_training(self) -> int:
        """Optimizer steps of one training."""
        return len(self.datamodule.train_dataloader()) * int(self.task.trainer_kwargs["max_epochs"])

    @property
    def seed(self) -> int:
        """Of all that the search draws."""
        return 1_000 * self.task.draw + self.search

    @property
    def ledger(self) -> Path:
        """The file in which every step is counted."""
        return self.folder / "steps.txt"

    @property
    def steps(self) -> int:
        """Steps of all networks so far."""
        return counted(self.ledger)

    def random(self) -> np.random.Generator:
        """The search's own random numbers."""
        return np.random.default_rng([8_003, self.seed])

    def validate(self, schedule: Schedule, index: int) -> float:
        """Validation accuracy after a whole training."""
        callbacks = [StepLedger(self.ledger), weighting_callback(schedule)]
        return self._accuracy(train(self.task, self.datamodule, search_seed(self.seed, index), callbacks))

    def advance(
        self, state: Path | None, index: int, schedule: Schedule, start: int, stop: int
    ) -> tuple[Path | None, float]:
        """Train from a checkpoint to the end of stage ``stop - 1``; the new checkpoint (None at the end), accuracy.

        Without a checkpoint a new generation begins, and those of the one before are deleted.
        """
        if state is None:
            for old in self.folder.glob("*.ckpt"):
                old.unlink()
        pauses: Sequence[_Pause] = []
        path = None
        if stop < NUM_STAGES:
            path = self.folder / f"member{next(self._numbers)}.ckpt"
            pauses = [_Pause(StageSchedule(self.steps_per_training, NUM_STAGES).end(stop - 1), path)]
        callbacks = [StepLedger(self.ledger), weighting_callback(schedule), *pauses]
        seed = search_seed(self.seed, index)
        return path, self._accuracy(train(self.task, self.datamodule, seed, callbacks, ckpt_path=state))

    def _accuracy(self, module: L.LightningModule) -> float:
        return accuracy(module, *split_of(self.datamodule, "val"))

    @cached_property
    def _numbers(self) -> itertools.count[int]:
        return itertools.count()
