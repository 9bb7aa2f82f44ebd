"""The trainings of a comparison: one after the other, or several at a time in processes of their own."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import joblib
import lightning as L
import torch
from joblib.externals.loky.process_executor import TerminatedWorkerError
from lightning.pytorch.callbacks import LambdaCallback, ModelCheckpoint

from law_lightning.cli.app import quiet
from law_lightning.cli.build import trainer_options
from law_lightning.cli.methods import method_callbacks
from law_lightning.report.records import Outcome
from law_lightning.search.workers import WorkerLostError


@dataclass(frozen=True)
class Training:
    """One training of a comparison, which can be pickled.

    Attributes:
        method: Name of the method.
        seed: Decides everything random.
        config: The config of law-compare, resolved.
        make_module: Makes a fresh network.
        make_data: Makes the data module.
    """

    method: str
    seed: int
    config: dict[str, Any]
    make_module: Callable[[], L.LightningModule]
    make_data: Callable[[], L.LightningDataModule]

    def run(self, on_epoch: Callable[[], object] = lambda: None) -> Outcome:
        """Train from scratch and test.

        Args:
            on_epoch: Called after each training epoch.
        """
        callbacks = method_callbacks(self.method, self.config, self._peer)
        options = trainer_options(self.config)
        L.seed_everything(self.seed, workers=True, verbose=False)
        module, data = self.make_module(), self.make_data()
        with tempfile.TemporaryDirectory() as folder:
            best: ModelCheckpoint = ModelCheckpoint(
                folder, filename="{epoch}", monitor="val/acc", mode="max", save_weights_only=True
            )
            tick = LambdaCallback(on_train_epoch_end=lambda trainer, module: on_epoch())
            callbacks = [*options.pop("callbacks", []), *callbacks, best, tick]
            trainer = L.Trainer(**{**options, "logger": False, "callbacks": callbacks})
            acc_last, acc_best = fit_and_test(trainer, module, data, best)
        epoch = re.search(r"epoch=(\d+)[^/\\]*$", best.best_model_path)
        return Outcome(self.method, self.seed, acc_last, acc_best, epoch and int(epoch[1]))

    def _peer(self) -> L.LightningModule:
        """A second network, initialised like the first but from another seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed + 2**31)
            return self.make_module()


def fit_and_test(
    trainer: L.Trainer, module: L.LightningModule, data: L.LightningDataModule, best: ModelCheckpoint
) -> tuple[float, float | None]:
    """Train, and test twice: as the last epoch left the network, and as its best epoch did.

    The best epoch is the one with the highest validation accuracy; test data choose nothing. Where all data are
    trained on there is none.

    Args:
        trainer: A Trainer with ``best`` among its callbacks.
        module: The network.
        data: The data module.
        best: Keeps the checkpoint of the best epoch.

    Returns:
        Both test accuracies, in [0, 1].

    Raises:
        ValueError: The module's ``test_step`` logs no ``test/acc``.
    """
    trainer.fit(module, datamodule=data)
    accuracies = []
    for checkpoint in [None, best.best_model_path] if best.best_model_path else [None]:
        metrics = trainer.test(module, datamodule=data, ckpt_path=checkpoint, verbose=False)[0]
        if "test/acc" not in metrics:
            raise ValueError(
                f"{type(module).__name__}.test_step logs {sorted(metrics)}, but the commands need 'test/acc': "
                "the share of test samples that are classified right, in [0, 1]."
            )
        accuracies.append(float(metrics["test/acc"]))
    return accuracies[0], accuracies[1] if len(accuracies) == 2 else None


def outcomes_of(trainings: Sequence[Training], workers: int, on_epoch: Callable[[], object]) -> Iterator[Outcome]:
    """The outcome of each training, as soon as it is known.

    Args:
        trainings: To be run.
        workers: How many at a time; 1 runs them in this process.
        on_epoch: Called after each epoch of a training in this process.

    Raises:
        WorkerLostError: A process died.
    """
    if workers == 1:
        yield from (training.run(on_epoch) for training in trainings)
        return
    # If a training fails or the comparison is stopped, joblib ends the other processes.
    pool = joblib.Parallel(workers, return_as="generator_unordered", batch_size=1)
    try:
        yield from pool(joblib.delayed(_run_alone)(training) for training in trainings)
    except TerminatedWorkerError as error:
        raise WorkerLostError(
            "A process of the comparison died, perhaps for lack of memory. What had finished is saved: the same "
            "command in the same run_dir resumes; workers=1 needs less memory."
        ) from error


def _run_alone(training: Training) -> Outcome:
    torch.set_num_threads(1)
    quiet()
    return training.run()
