"""One episode: a complete training run of a fresh network from its own seed."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import lightning as L
import torch
from lightning.fabric.plugins.environments import ClusterEnvironment, LightningEnvironment
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from law_lightning._compat import log_at_less_cost
from law_lightning.callbacks import LAWCallback
from law_lightning.callbacks.checks import check_package, is_a
from law_lightning.second_network.evaluation import Evaluator
from law_lightning.utilities.randomness import derived_seed

MakeModule = Callable[[], L.LightningModule]

#: The networks of episodes, as long as they exist.
_trained: WeakSet[L.LightningModule] = WeakSet()

_NOT_SHOWN = (".*does not have many workers.*", ".*smaller than the logging interval.*", ".*LeafSpec.*")

#: Trainer options against what an episode need not show or write.
QUIET: dict[str, Any] = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
    # The reward validates both networks at the stage ends; the Trainer's own passes would only repeat that.
    "check_val_every_n_epoch": 10**9,
}


def episode_seed(search_seed: int, purpose: str, index: int) -> int:
    """The seed of an episode; those of the purposes ``"learn"``, ``"evaluate"`` and ``"check"`` differ."""
    return derived_seed(search_seed, ("learn", "evaluate", "check").index(purpose), index)


def learning_seed(search_seed: int, episode: int, pool: int) -> int:
    """The seed of a learning episode, from a pool in turn; with a pool of 0 every episode has its own."""
    return episode_seed(search_seed, "learn", episode % pool if pool else episode)


def check_one_device(trainer_kwargs: dict[str, Any]) -> None:
    """Raise a MisconfigurationException unless an episode runs on one device, as it must beside other workers'."""
    devices, strategy = trainer_kwargs.get("devices", "auto"), trainer_kwargs.get("strategy", "auto")
    one = devices in (1, "1", "auto", None) or (isinstance(devices, (list, tuple)) and len(devices) == 1)
    alone = strategy in ("auto", "single_device") or isinstance(strategy, SingleDeviceStrategy)
    if not one or not alone or trainer_kwargs.get("num_nodes", 1) != 1:
        raise MisconfigurationException(
            f"With several workers each episode runs on one device, but the Trainer has devices={devices!r}, "
            f"strategy={strategy!r}, num_nodes={trainer_kwargs.get('num_nodes', 1)}: leave them out (workers take "
            "turns on the GPUs), or use workers=1."
        )


def on_one_device(trainer_kwargs: dict[str, Any], rank: int) -> dict[str, Any]:
    """The Trainer's arguments for a worker's episodes: one process on one device, of several GPUs in turn."""
    options = dict(trainer_kwargs)
    plugins = options.get("plugins") or []
    plugins = [*plugins] if isinstance(plugins, (list, tuple)) else [plugins]
    if not any(isinstance(plugin, ClusterEnvironment) for plugin in plugins):
        plugins.append(LightningEnvironment())  # torchrun and SLURM describe all workers together
    options |= {"plugins": plugins, "devices": options.get("devices") or 1}
    gpus = torch.cuda.device_count() if options.get("accelerator", "auto") in ("auto", "gpu", "cuda") else 0
    if options["devices"] in (1, "1", "auto"):
        options["devices"] = [rank % gpus] if gpus else 1
    return options


class FinalAccuracy(L.Callback):
    """The accuracy on each validation sample at the end of a fit, [N] in [0, 1].

    Args:
        check_val: the ``check_val_every_n_epoch`` for a fit that needs the Trainer's own validation.
        law: the callback of the fit; where one searches, nobody asks for the accuracy.
    """

    value: Tensor = torch.empty(0)

    def __init__(self, check_val: int | None = 1, law: LAWCallback | None = None) -> None:
        self._check_val = check_val
        self._wanted = law is None or law.mode != "search"

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Validate as usual where a scheduler or early stopping follows a validation metric."""
        followed = any(config.reduce_on_plateau for config in trainer.lr_scheduler_configs)
        if followed or any(is_a(each, EarlyStopping) for each in trainer.callbacks):  # type: ignore[attr-defined]
            trainer.check_val_every_n_epoch = self._check_val

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Validate on one batch, so that errors in the validation are raised before the training."""
        if self._wanted:
            Evaluator(trainer)([pl_module], limit=1)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Validate once."""
        if self._wanted:
            evaluator = Evaluator(trainer)
            evaluator([pl_module])
            self.value = evaluator.predictions()[0].accuracy.double()


def run_episode(
    seed: int,
    make_module: MakeModule,
    datamodule: L.LightningDataModule,
    trainer_kwargs: dict[str, Any],
    law: LAWCallback | None,
) -> Tensor:
    """Train a fresh network from ``seed``, plainly if ``law`` is None; the caller's random states stay as they are.

    Returns:
        The network's accuracy on each validation sample, float64 [N]; none after a fit that searches.
    """
    options = QUIET | copy.deepcopy(trainer_kwargs)
    final = FinalAccuracy(trainer_kwargs.get("check_val_every_n_epoch", 1), law)
    options["callbacks"] = [*(options.get("callbacks") or []), *([] if law is None else [law]), final]
    with isolate_rng(), quiet_lightning():
        L.seed_everything(seed, verbose=False)
        module = make_module()
        check_package(module, datamodule)
        if module in _trained:
            raise MisconfigurationException(
                "make_module returned the network of an earlier episode, but every episode trains a new one from its "
                "own seed: let it make a new module at every call."
            )
        _trained.add(module)
        trainer = L.Trainer(**options)
        log_at_less_cost(trainer)
        trainer.fit(module, datamodule=datamodule)
    return final.value


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Suppress what Lightning prints for every Trainer, and warnings that a search would repeat."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        for about in _NOT_SHOWN:
            warnings.filterwarnings("ignore", about)
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
