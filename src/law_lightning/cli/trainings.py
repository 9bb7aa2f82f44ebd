"""The trainings of a comparison: what each method adds, and several at a time in processes of their own."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

import joblib
import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, LambdaCallback, ModelCheckpoint

from law_lightning import CoTeachingCallback, L2RWCallback, LAWCallback, MetaWeightNetCallback, WeightingCallback
from law_lightning.cli.app import quiet
from law_lightning.cli.build import trainer_options
from law_lightning.report.records import Outcome
from law_lightning.search.workers import WorkerLostError
from law_lightning.weighting import (
    ClassBalancedWeighting,
    FocalWeighting,
    GCEWeighting,
    MentorNetWeighting,
    SelfPacedWeighting,
)

#: Weightings, and callbacks of their own.
_CLASSES: dict[str, type[Any]] = {
    "general": LAWCallback,
    "focal": FocalWeighting,
    "gce": GCEWeighting,
    "class_balanced": ClassBalancedWeighting,
    "self_paced": SelfPacedWeighting,
    "mentornet": MentorNetWeighting,
    "l2rw": L2RWCallback,
    "meta_weight_net": MetaWeightNetCallback,
    "co_teaching": CoTeachingCallback,
}
#: Names of all; ``base`` is plain training.
METHODS = ("base", "law", *_CLASSES)
#: What some of them need beside the training data.
NEEDS = {
    "general": "validation data, whose labels may be noisy",
    "law": "the validation data of its search",
    **dict.fromkeys(("l2rw", "meta_weight_net"), "clean validation data"),
    "co_teaching": "the rate of wrong labels",
}

#: The settings that name the accuracies which a module logs.
_METRICS = {"validation": "val_metric", "test": "test_metric"}


def method_callbacks(
    method: str, config: Mapping[str, Any], make_peer: Callable[[], L.LightningModule] | None = None
) -> list[Callback]:
    """Make the callbacks that a method adds to the Trainer of one training.

    Args:
        method: Its name.
        config: The config of law-compare: ``strategy`` and ``law`` for LAW, ``method`` for the others.
        make_peer: Makes co-teaching's second network; None leaves that to its callback.
    """
    if method == "base":
        return []
    if method == "law":
        return [LAWCallback(config["strategy"], mode="apply", **config["law"])]
    options = dict(config["method"].get(method) or {})
    if method == "co_teaching":
        options = {"peer": make_peer and make_peer(), **options}
    if issubclass(_CLASSES[method], Callback):
        return [_CLASSES[method](**options)]
    of_callback = {name: options.pop(name) for name in ("num_stages", "warmup_stages") if name in options}
    return [WeightingCallback(_CLASSES[method](**options), **of_callback)]


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
        """Train from scratch and test; ``on_epoch`` is called after each training epoch."""
        callbacks = method_callbacks(self.method, self.config, self._peer)
        options = trainer_options(self.config)
        L.seed_everything(self.seed, workers=True, verbose=False)
        module, data = self.make_module(), self.make_data()
        with tempfile.TemporaryDirectory() as folder:
            best = ModelCheckpoint(folder, monitor=self.config["val_metric"], mode="max", save_weights_only=True)
            tick = LambdaCallback(on_train_epoch_end=lambda trainer, module: on_epoch())
            callbacks = [*options.pop("callbacks", []), *callbacks, best, tick]
            trainer = L.Trainer(**{**options, "logger": False, "callbacks": callbacks})
            return Outcome(
                self.method, self.seed, *fit_and_test(trainer, module, data, best, self.config["test_metric"])
            )

    def _peer(self) -> L.LightningModule:
        """A second network, initialised like the first but from another seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed + 2**31)
            return self.make_module()


def fit_and_test(
    trainer: L.Trainer, module: L.LightningModule, data: L.LightningDataModule, best: ModelCheckpoint, test_metric: str
) -> tuple[float, float | None, int | None]:
    """Train, and test the network as the last epoch left it, and as the best by validation accuracy did.

    Both test accuracies go to the Trainer's loggers, as ``<test_metric>_last`` and ``<test_metric>_best``.

    Args:
        trainer: A Trainer with ``best`` among its callbacks.
        module: The network.
        data: The data module.
        best: Keeps the checkpoint of the best epoch.
        test_metric: The name under which the module logs the share of test samples that are classified right.

    Returns:
        Both test accuracies, in [0, 1], and the best epoch, from 0; the last two are None without validation data.

    Raises:
        ValueError: The module logs no such number, or none by the name that ``best`` monitors.
    """

    def check(step: str, metrics: Mapping[str, Any], metric: str | None) -> None:
        if metric not in metrics:
            raise ValueError(
                f"{type(module).__name__} logs {sorted(metrics)}, but the commands need {metric!r} from {step}_step, "
                f"the share of right samples in [0, 1]; another name is given with {_METRICS[step]}=NAME."
            )

    def check_validation(trainer: L.Trainer, module: L.LightningModule) -> None:
        if not trainer.sanity_checking:
            check("validation", trainer.callback_metrics, best.monitor)

    trainer.callbacks.insert(0, LambdaCallback(on_validation_end=check_validation))  # type: ignore[attr-defined]
    trainer.fit(module, datamodule=data)
    accuracies: dict[str, float] = {}
    for epoch, checkpoint in {"last": None, "best": best.best_model_path}.items():
        if checkpoint == "":
            break
        metrics = trainer.test(module, datamodule=data, ckpt_path=checkpoint, verbose=False)[0]
        check("test", metrics, test_metric)
        accuracies[epoch] = float(metrics[test_metric])
    for logger in trainer.loggers:  # the Trainer has logged both by one name
        logger.log_metrics({f"{test_metric}_{epoch}": each for epoch, each in accuracies.items()}, trainer.global_step)
        logger.save()
    if "best" not in accuracies:
        return accuracies["last"], None, None
    epoch = torch.load(best.best_model_path, "cpu", weights_only=False, mmap=True)["epoch"]  # the fit's own file
    return accuracies["last"], accuracies["best"], epoch


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
    except BrokenProcessPool as error:
        raise WorkerLostError(
            "A process of the comparison died, perhaps for lack of memory. What had finished is saved: the same "
            "command in the same run_dir resumes; workers=1 needs less memory."
        ) from error


def _run_alone(training: Training) -> Outcome:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches it too, but the first process ends all
    torch.set_num_threads(1)
    quiet()
    return training.run()
