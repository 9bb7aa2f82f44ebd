"""Trainings, their accuracies, the count of their steps, and where a search trains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torchdata.stateful_dataloader import StatefulDataLoader

from common import QUIET
from law_lightning import LAWCallback, StageSchedule
from rivals.schedules import NUM_STAGES, Schedule, weighting_callback
from tasks import Task


class StepLedger(L.Callback):
    """Counts every optimizer step of a network, also a live reference's, into a file.

    A file, because a search copies its callbacks for each episode.

    Args:
        path: the file; each fit appends its steps.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen = self._steps = 0

    def on_train_start(self, trainer: L.Trainer, *args: Any) -> None:
        """A resumed fit begins later than at zero."""
        self._seen, self._steps = trainer.global_step, 0

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """Count the step of the network, and of the reference if there is one."""
        callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
        references = sum(isinstance(each, LAWCallback) and each.reference is not None for each in callbacks)
        self._steps += (1 + references) * (trainer.global_step - self._seen)
        self._seen = trainer.global_step

    def on_train_end(self, *args: Any) -> None:
        """Write the fit's steps down."""
        with self.path.open("a", encoding="ascii") as file:
            file.write(f"{self._steps}\n")


def accuracy(module: L.LightningModule, x: Tensor, y: Tensor) -> float:
    """Share of samples [N, ...] classified as ``y`` [N]. A loader would draw from the training's random state."""
    training = module.training
    module.eval()
    with torch.no_grad():
        share = float((module(x).argmax(1) == y).float().mean())
    module.train(training)
    return share


def split_of(datamodule: Any, name: str) -> tuple[Tensor, Tensor]:
    """Inputs and labels of ``train``, ``val`` or ``test``."""
    datamodule.setup()
    dataset = getattr(datamodule, f"{name}_dataloader")().dataset
    return dataset.x, dataset.y


class BestEpoch(L.Callback):
    """Test accuracy after the epoch that validates best, its number, and the network's state."""

    def __init__(self, val: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> None:
        self._val, self._test = val, test
        self.best_val, self.test, self.epoch = -1.0, float("nan"), -1
        self.state: dict[str, Tensor] = {}

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Validate, and test where it is the best epoch so far."""
        value = accuracy(pl_module, *self._val)
        if value > self.best_val:
            self.best_val, self.test, self.epoch = value, accuracy(pl_module, *self._test), trainer.current_epoch
            self.state = {name: value.clone() for name, value in pl_module.state_dict().items()}


def train(
    task: Task,
    datamodule: L.LightningDataModule,
    seed: int,
    callbacks: Sequence[L.Callback],
    ckpt_path: Path | None = None,
) -> L.LightningModule:
    """Train a fresh network from ``seed``, or resume from a checkpoint; the caller's random states do not change."""
    given = datamodule.train_dataloader()
    with isolate_rng():
        L.seed_everything(seed, verbose=False)
        module = task.make_module()
        # Checkpoints within an epoch keep its state; the order of its batches is not that of torch's own loader.
        loader = StatefulDataLoader(given.dataset, given.batch_size, shuffle=True, collate_fn=given.collate_fn)
        # The Trainer's own validation would choose nothing.
        options = QUIET | {"check_val_every_n_epoch": 10**9} | task.trainer_kwargs
        trainer = L.Trainer(**options, callbacks=list(callbacks))
        trainer.fit(module, loader, datamodule.val_dataloader(), ckpt_path=ckpt_path)
    return module


def evaluate(
    task: Task, datamodule: L.LightningDataModule, seed: int, callbacks: Sequence[L.Callback]
) -> dict[str, float | None]:
    """Train from scratch and test; nothing is chosen by test data.

    Returns:
        Shares in [0, 1]: ``acc_last``, test accuracy after the last epoch; ``acc_best``, after the epoch of the best
        validation accuracy; ``val_last``, validation accuracy after the last; and ``wrong_fitted``, the share of the
        wrong training labels that the network predicts, None if all are right.
    """
    val, test = split_of(datamodule, "val"), split_of(datamodule, "test")
    best = BestEpoch(val, test)
    module = train(task, datamodule, seed, [*callbacks, best])
    record = datamodule.corruption_record  # type: ignore[attr-defined]
    fitted = None
    if record is not None and len(record.indices):
        x, y = split_of(datamodule, "train")
        fitted = accuracy(module, x[record.indices], y[record.indices])
    return {
        "acc_last": accuracy(module, *test), "acc_best": best.test, "val_last": accuracy(module, *val),
        "wrong_fitted": fitted,
    }  # fmt: skip


# -- where a search trains -----------------------------------------------------------------------------------------


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

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        if not trainer.is_last_batch:
            self.on_train_epoch_end(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, *args: Any) -> None:
        if trainer.global_step >= self.step and not trainer.should_stop:
            trainer.save_checkpoint(self.path)
            trainer.should_stop = True


@dataclass
class Lab:
    """One search's trainings: one task, seeds of its own, and a ledger of every step.

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

    @cached_property
    def ledger(self) -> StepLedger:
        """Counts the steps of all networks."""
        return StepLedger(self.folder / "steps.txt")

    @property
    def steps(self) -> int:
        """Steps of all networks so far."""
        return sum(map(int, self.ledger.path.read_text().split())) if self.ledger.path.is_file() else 0

    def random(self) -> np.random.Generator:
        """The search's own random numbers."""
        return np.random.default_rng([8_003, self.seed])

    def validate(self, schedule: Schedule, index: int) -> float:
        """Validation accuracy after a whole training."""
        return self.advance(None, index, schedule, 0, NUM_STAGES)[1]

    def advance(
        self, state: Path | None, index: int, schedule: Schedule, start: int, stop: int
    ) -> tuple[Path | None, float]:
        """Train from a checkpoint to the end of stage ``stop - 1``; the new checkpoint (None at the end), accuracy.

        Without a checkpoint a new generation begins, and those of the one before are deleted.
        """
        if state is None:
            for old in self.folder.glob("*.ckpt"):
                old.unlink()
        pauses: list[L.Callback] = []
        path = None
        if stop < NUM_STAGES:
            path = self.folder / f"member{len([*self.folder.glob('*.ckpt')])}.ckpt"
            pauses = [_Pause(StageSchedule(self.steps_per_training, NUM_STAGES).end(stop - 1), path)]
        callbacks = [self.ledger, weighting_callback(schedule), *pauses]
        module = train(self.task, self.datamodule, search_seed(self.seed, index), callbacks, ckpt_path=state)
        return path, accuracy(module, *split_of(self.datamodule, "val"))
