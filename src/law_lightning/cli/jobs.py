"""The trainings of a comparison: one after the other, or several at a time in processes of their own."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch

from law_lightning.cli.build import trainer_arguments
from law_lightning.cli.methods import method_table
from law_lightning.cli.training import train_once
from law_lightning.report.records import Outcome


@dataclass(frozen=True)
class Training:
    """One training of a comparison, to be sent to a process.

    Attributes:
        method: its name.
        seed: decides everything random.
        strategy: LAW's file.
        law: arguments of LAWCallback.
        options: arguments of the other methods, by name.
        make_module: makes a fresh network.
        make_data: makes the data module.
        trainer: the config of the Trainer.
    """

    method: str
    seed: int
    strategy: Path | None
    law: dict[str, Any]
    options: dict[str, dict[str, Any]]
    make_module: Callable[[], L.LightningModule]
    make_data: Callable[[], L.LightningDataModule]
    trainer: dict[str, Any]

    def run(self, on_epoch: Callable[[], object] = lambda: None) -> Outcome:
        """Train and test."""
        callbacks = method_table(self.strategy, self.law, self.options, self._peer)[self.method].make()
        options = trainer_arguments(self.trainer)
        return train_once(self.method, self.seed, self.make_module, self.make_data, callbacks, options, on_epoch)

    def _peer(self) -> L.LightningModule:
        """A second network, initialised like the first but from another seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed + 2**31)
            return self.make_module()


def _alone(training: Training) -> Outcome:
    torch.set_num_threads(1)
    return training.run()


def outcomes_of(
    trainings: Sequence[Training], workers: int, on_epoch: Callable[[], object]
) -> Iterator[tuple[Training, Outcome]]:
    """Each training with its outcome, as soon as it is known.

    Args:
        trainings: to be run.
        workers: how many at a time; 1 runs them in this process.
        on_epoch: called after each epoch of a training in this process.

    Raises:
        RuntimeError: a process died.
    """
    if workers == 1:
        for training in trainings:
            yield training, training.run(on_epoch)
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # inherited by the processes
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        running = {pool.submit(_alone, training): training for training in trainings}
        try:
            while running:
                done, _ = wait(running, timeout=1.0, return_when=FIRST_COMPLETED)
                for future in done:
                    yield running.pop(future), future.result()
        except BrokenProcessPool:
            raise RuntimeError(
                "A process of the comparison died, perhaps for want of memory. What was finished is saved: the same "
                "command in the same run_dir goes on; workers=1 needs less memory."
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            if running:  # stopped: a pool would let them finish first
                for process in multiprocessing.active_children():
                    process.terminate()
