"""One training, in as many commands as it takes, and its test accuracy at the end."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch

from law_lightning import LAWCallback
from law_lightning.callbacks.order import DataOrder
from law_lightning.search.episodes import QUIET, quiet_lightning
from law_lightning.search.lean import NoProfiler, lean
from law_lightning.second_network.reference import tensors
from law_lightning.second_network.trace import digest
from rivals.rows import Row, append_row, read_rows
from table1.budget import Budget
from table1.folder import RESULTS, check_settings, digest_of, keep_noise, write_once
from table1.task import Training, make_data, make_module, noisy_labels, read_arrays

METHODS = ("base", "law")


class KeepOrder(L.Callback):
    """Lets plain training go on with the data in the order of a training that was not stopped, as LAW's callback does.

    The training itself does not change.
    """

    def __init__(self) -> None:
        self._order = DataOrder()
        self._loaded: dict[str, Any] | None = None

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The data order of the first epoch is still to be drawn."""
        self._order.note_epoch(trainer)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put the random states of the checkpoint back."""
        if self._loaded is not None:
            self._order.restore(trainer, self._loaded)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """From the second epoch on, the data order is drawn right after this."""
        if trainer.current_epoch > 0:
            self._order.note_epoch(trainer)

    def state_dict(self) -> dict[str, Any]:
        """The random states."""
        return self._order.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep them until the fit begins."""
        self._loaded = state_dict


class Saver(L.Callback):
    """Saves the training every few epochs, and stops it before the time is up. Comes last among the callbacks.

    Args:
        path: of the checkpoint.
        every: epochs between two checkpoints.
        budget: the time.

    Attributes:
        seconds: that the training took, over all commands.
        epochs: done so far.
    """

    def __init__(self, path: Path, every: int, budget: Budget) -> None:
        self._path, self._every, self._budget = path, every, budget
        self.seconds, self.epochs = 0.0, 0
        self._since = time.monotonic()

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The clock starts."""
        self._since = time.monotonic()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save and stop, if there is no time for another epoch and its checkpoint."""
        now = time.monotonic()
        took, self._since = now - self._since, now
        self.seconds += took
        self.epochs = trainer.current_epoch + 1
        trainer.should_stop = self._budget.lacks(2 * took)
        if trainer.should_stop or self.epochs % self._every == 0 or self.epochs == trainer.max_epochs:
            part = self._path.with_suffix(".partial")
            trainer.save_checkpoint(part)
            os.replace(part, self._path)  # noqa: PTH105 - atomic, also onto an existing file

    def state_dict(self) -> dict[str, Any]:
        """What the training took so far."""
        return {"seconds": self.seconds, "epochs": self.epochs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self.seconds, self.epochs = state_dict["seconds"], state_dict["epochs"]


@dataclass(frozen=True)
class Job:
    """A training that ends as a row of the results.

    Attributes:
        data: path of the data set.
        out: folder of the experiment.
        training: its settings.
        method: ``base`` or ``law``.
        seed: of network and data order.
        strategy: the strategy's file, for ``law``.
        save_every: epochs between two checkpoints.
    """

    data: Path
    out: Path
    training: Training
    method: str
    seed: int
    strategy: Path | None = None
    save_every: int = 10

    @property
    def name(self) -> str:
        """For messages and files."""
        return f"{self.method}_{self.seed}"


def make_trainer(training: Training, callbacks: list[L.Callback], **kwargs: Any) -> L.Trainer:
    """A Trainer that shows and writes nothing, and has no validation."""
    options = QUIET | {"profiler": NoProfiler()} | training.trainer_kwargs() | kwargs
    return lean(L.Trainer(**options, callbacks=callbacks))


def train(job: Job, budget: Budget) -> str:
    """Train, or go on training, and test at the end: a row of the results. Test data choose nothing.

    Args:
        job: what to train.
        budget: the time.

    Returns:
        What was done and what is left.

    Raises:
        ValueError: the folder holds trainings with other settings or another strategy.
        FileNotFoundError: there is no data set, or no strategy.
    """
    arrays = read_arrays(job.data)
    folder = job.out / "train"
    settings = check_settings(folder / "settings.json", {"data": arrays.digest, **asdict(job.training)})
    keep_noise(job.out, noisy_labels(arrays, job.training))
    strategy = freeze_strategy(folder, job.strategy) if job.method == "law" else None
    if any((row["method"], row["seed"]) == (job.method, job.seed) for row in read_rows(job.out / RESULTS)):
        return f"{job.name}: done before"
    checkpoint = folder / f"{job.name}.ckpt"
    saver = Saver(checkpoint, job.save_every, budget)
    course = KeepOrder() if strategy is None else LAWCallback(strategy, mode="apply")
    with quiet_lightning():
        L.seed_everything(job.seed, verbose=False)
        module = make_module(arrays.in_shape, arrays.num_classes, job.training)
        data = make_data(job.data, job.training)
        trainer = make_trainer(job.training, [course, saver])
        resumed = checkpoint if checkpoint.is_file() else None
        if resumed is None and budget.lacks(0):
            return f"{job.name}: not begun; the same command begins it"
        trainer.fit(module, datamodule=data, ckpt_path=resumed, weights_only=True)
        if saver.epochs < job.training.epochs:
            return f"{job.name}: {saver.epochs} of {job.training.epochs} epochs; the same command goes on"
        (tested,) = trainer.test(module, datamodule=data, verbose=False)
    row: Row = {
        "method": job.method,
        "seed": job.seed,
        "epochs": saver.epochs,
        "accuracy": tested["test/acc"],
        "seconds": round(saver.seconds, 1),
        "settings": settings,
        "strategy": None if strategy is None else digest_of(strategy.read_bytes()),
        "weights": digest([tensor.cpu() for tensor in tensors(module)])[:16],
        "device": torch.cuda.get_device_name() if job.training.accelerator == "gpu" else "cpu",
    }
    append_row(job.out / RESULTS, row)
    checkpoint.unlink(missing_ok=True)
    return f"{job.name}: test accuracy {100 * row['accuracy']:.2f} %, {row['seconds']:.0f} s"


def freeze_strategy(folder: Path, given: Path | None) -> Path:
    """The strategy of all trainings of a folder: that of the first, however the search goes on.

    Raises:
        ValueError: another one is given.
        FileNotFoundError: there is none.
    """
    frozen, found = folder / "strategy.safetensors", given or folder.parent / "search" / "strategy.safetensors"
    if not frozen.is_file():
        if not found.is_file():
            raise FileNotFoundError(f"There is no strategy at {found}: search first, or give --strategy FILE.")
        write_once(frozen, partial(shutil.copyfile, found))
    elif given is not None and given.read_bytes() != frozen.read_bytes():
        raise ValueError(f"The trainings in {folder} are with another strategy than {given}: choose another --out.")
    return frozen
