"""Trainings, their accuracies, and the count of their steps."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from law_lightning import LAWCallback
from law_lightning.search.episodes import QUIET, quiet_lightning
from tasks import Task


@dataclass
class _Count:
    """Of a fit; an object of its own, so that a search knows that training does not depend on it."""

    seen: int = 0
    steps: int = 0


class StepLedger(L.Callback):
    """Counts every optimizer step of a network, also a live reference's, into a file.

    A file, because a search copies its callbacks for each episode and may run them in other processes.

    Args:
        path: the file; each fit appends its steps.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._count = _Count()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A resumed fit begins later than at zero."""
        self._count = _Count(seen=trainer.global_step)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the step of the network, and of the reference if there is one."""
        networks = 1 + sum(
            isinstance(callback, LAWCallback) and callback.reference is not None
            for callback in trainer.callbacks  # type: ignore[attr-defined]
        )
        self._count.steps += networks * (trainer.global_step - self._count.seen)
        self._count.seen = trainer.global_step

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the fit's steps down; short lines of several processes do not mix."""
        with self.path.open("a", encoding="ascii") as file:
            file.write(f"{self._count.steps}\n")


def counted(path: Path) -> int:
    """The sum of a ledger; 0 if there is none yet."""
    try:
        # Without an unfinished last line: the file is also read while it grows.
        lines = path.read_text(encoding="ascii").split("\n")[:-1]
    except FileNotFoundError:
        return 0
    return sum(map(int, lines))


def accuracy(module: L.LightningModule, x: Tensor, y: Tensor, piece: int = 1024) -> float:
    """Share of samples [N, ...] classified as ``y`` [N]; NaN without samples."""
    return float((predictions(module, x, piece) == y).float().mean()) if len(y) else float("nan")


def predictions(module: L.LightningModule, x: Tensor, piece: int = 1024) -> Tensor:
    """The likeliest class of each input, [N]. A loader would draw from the random state of the training."""
    training = module.training
    module.eval()
    with torch.no_grad():
        classes = torch.cat([module(part).argmax(1) for part in x.split(piece)])
    module.train(training)
    return classes


def split_of(datamodule: Any, name: str) -> tuple[Tensor, Tensor]:
    """Inputs and labels of ``train``, ``val`` or ``test``."""
    datamodule.setup()
    dataset = getattr(datamodule, f"{name}_dataloader")().dataset
    return dataset.x, dataset.y


@dataclass
class Outcome:
    """What a training ended with, in [0, 1].

    Attributes:
        acc_last: test accuracy after the last epoch.
        acc_best: test accuracy after the epoch of the best validation accuracy.
        val_last: validation accuracy after the last epoch.
        wrong_fitted: share of the wrong training labels that the network predicts; None if all are right.
    """

    acc_last: float
    acc_best: float
    val_last: float
    wrong_fitted: float | None


class _BestEpoch(L.Callback):
    """Test accuracy after the epoch that validates best."""

    def __init__(self, val: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> None:
        self._val, self._test = val, test
        self.best_val, self.test = -1.0, float("nan")

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        value = accuracy(pl_module, *self._val)
        if value > self.best_val:
            self.best_val, self.test = value, accuracy(pl_module, *self._test)


def train(
    task: Task,
    datamodule: L.LightningDataModule,
    seed: int,
    callbacks: Sequence[L.Callback],
    ckpt_path: Path | None = None,
) -> L.LightningModule:
    """Train a fresh network from ``seed``, or go on from a checkpoint; the caller's random states stay as they are."""
    with isolate_rng(), quiet_lightning():
        # True of Lightning alone: the weighting callback restores the order of the data.
        warnings.filterwarnings("ignore", ".*dataloader is not resumable.*")
        L.seed_everything(seed, verbose=False)
        module = task.make_module()
        trainer = L.Trainer(**QUIET | task.trainer_kwargs, callbacks=list(callbacks))
        trainer.fit(module, datamodule=datamodule, ckpt_path=ckpt_path)
    return module


def evaluate(
    task: Task, datamodule: L.LightningDataModule, seed: int, callbacks: Sequence[L.Callback]
) -> dict[str, float | None]:
    """Train from scratch and test: an :class:`Outcome` as a dictionary. Nothing is chosen by test data."""
    val, test = split_of(datamodule, "val"), split_of(datamodule, "test")
    best = _BestEpoch(val, test)
    module = train(task, datamodule, seed, [*callbacks, best])
    record = datamodule.corruption_record  # type: ignore[attr-defined]
    fitted = None
    if record is not None and len(record.indices):
        x, y = split_of(datamodule, "train")
        fitted = accuracy(module, x[record.indices], y[record.indices])
    return asdict(Outcome(accuracy(module, *test), best.test, accuracy(module, *val), fitted))
