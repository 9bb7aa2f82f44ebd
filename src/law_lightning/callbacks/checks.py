"""Checks before a fit: whether it can be weighted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    Callback,
    Checkpoint,
    LearningRateFinder,
    ModelPruning,
    ProgressBar,
    StochasticWeightAveraging,
    WeightAveraging,
)
from lightning.pytorch.strategies import (
    DDPStrategy,
    DeepSpeedStrategy,
    SingleDeviceStrategy,
    SingleDeviceXLAStrategy,
    XLAStrategy,
)
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature

from law_lightning._compat import comm_hook
from law_lightning.second_network.evaluation import NO_REWARD

#: Strategies that inherit from DDP or a single device, but run the training step in an engine of their own.
OTHER_ENGINES = (DeepSpeedStrategy, XLAStrategy, SingleDeviceXLAStrategy)


#: In these hooks a callback may change gradients or parameters in the course of a step.
_HOOKS_IN_STEP = ("on_after_backward", "on_before_optimizer_step", "on_before_zero_grad", "on_train_batch_end")


def _allows_copies(trainer: L.Trainer) -> bool:
    """Whether a copy of the module can run beside it."""
    strategy = trainer.strategy
    return isinstance(strategy, (SingleDeviceStrategy, DDPStrategy)) and not isinstance(strategy, OTHER_ENGINES)


def check_package(*given: Any) -> None:
    """Raise a MisconfigurationException for a Trainer, module or data module of the package pytorch_lightning."""
    for each in given:
        if any(map(_is_of_other_package, type(each).__mro__)):
            raise MisconfigurationException(
                f"{type(each).__name__} is made with the package pytorch_lightning, but law-lightning works with "
                "lightning, whose classes of the same names are others: import everything from lightning.pytorch, as "
                "in import lightning.pytorch as pl."
            )


def _is_of_other_package(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == "pytorch_lightning"


def check_fit(trainer: L.Trainer, module: L.LightningModule) -> None:
    """Raise a MisconfigurationException for pytorch_lightning and manual optimization."""
    check_package(trainer, module, getattr(trainer, "datamodule", None))
    if not module.automatic_optimization:
        raise MisconfigurationException(
            f"{type(module).__name__} uses manual optimization, in which no callback can weight the loss: set "
            "automatic_optimization = True, or weight the loss in its training_step."
        )


def refuse_search(trainer: L.Trainer, module: L.LightningModule) -> None:
    """Raise a MisconfigurationException where there can be no reference network or no reward."""
    refuse_second_network(
        trainer, module, "LAWCallback(mode='search')", " With a strategy found there, mode='apply' trains."
    )
    if trainer.limit_val_batches == 0:
        raise MisconfigurationException(NO_REWARD)


def refuse_validation(trainer: L.Trainer) -> None:
    """Raise a MisconfigurationException where a network cannot be validated at a stage's end."""
    if not _allows_copies(trainer):
        raise MisconfigurationException(
            "This strategy follows the network's validation accuracy, for which a copy of the network is validated at "
            f"every stage's end; {type(trainer.strategy).__name__} does not allow that: use a single device, "
            "strategy='ddp', or a strategy that was searched with StrategyAgent(phase_accuracy='training')."
        )


def refuse_second_network(trainer: L.Trainer, module: L.LightningModule, who: str, instead: str = "") -> None:
    """Raise a MisconfigurationException where no second network can train beside the user's.

    ``who`` trains the second network; ``instead`` is a sentence on what works everywhere.
    """
    strategy = trainer.strategy
    if not _allows_copies(trainer):
        raise MisconfigurationException(
            f"{who} trains a second network beside the first, which {type(strategy).__name__} does not allow: "
            f"use a single device or strategy='ddp'.{instead}"
        )
    if comm_hook(strategy) is not None:
        raise MisconfigurationException(
            f"{who} trains a second network, whose gradients are shared as plain DDP does; {type(strategy).__name__} "
            f"has a ddp_comm_hook, which would not be the second network's: leave it out.{instead}"
        )
    if trainer.strategy.root_device.type == "mps":
        raise MisconfigurationException(
            f"{who} does not keep the random states of Apple's GPUs, so the second network would change what the "
            f"first one draws: use accelerator='cpu' or a CUDA device.{instead}"
        )
    if callbacks_of(trainer, ModelPruning):
        raise MisconfigurationException(
            f"{who} trains a second network beside the first, but ModelPruning replaces parameters of the first alone: "
            f"prune the network after this training, in one without a second network.{instead}"
        )
    if is_param_in_hook_signature(module.training_step, "dataloader_iter", explicit=True):
        raise MisconfigurationException(
            f"{type(module).__name__}.training_step takes a dataloader_iter; beside a second network it must take a "
            "batch, which both networks can be given: training_step(self, batch, batch_idx)."
        )


def is_a(each: Any, *kinds: type) -> bool:
    """Whether it is of one of these kinds of lightning's, or of those that pytorch_lightning has by the same names."""
    names = {kind.__name__ for kind in kinds}
    return isinstance(each, kinds) or any(
        kind.__name__ in names and _is_of_other_package(kind) for kind in type(each).__mro__
    )


def callbacks_of(trainer: L.Trainer, *kinds: type[L.Callback]) -> list[Any]:
    """The Trainer's callbacks of these kinds."""
    return [each for each in trainer.callbacks if is_a(each, *kinds)]  # type: ignore[attr-defined]


def refuse_others(trainer: L.Trainer, module: L.LightningModule, resumes: bool, weights: bool) -> None:
    """Raise a MisconfigurationException for other callbacks that change the steps which are cut into stages.

    Without ``weights``, of plain training that is watched, an epoch more does no harm.
    """
    average = callbacks_of(trainer, StochasticWeightAveraging) if weights else []
    if average and trainer.max_epochs != -1 and StochasticWeightAveraging.pl_module_contains_batch_norm(module):
        raise MisconfigurationException(
            f"{type(average[0]).__name__} adds an epoch without optimizer steps to the training of "
            f"{type(module).__name__}, for its BatchNorm layers, which LAW cannot cut into stages: use WeightAveraging "
            "or EMAWeightAveraging, which average what these layers hold too."
        )
    if resumes and (found := callbacks_of(trainer, BatchSizeFinder, LearningRateFinder)):
        raise MisconfigurationException(
            f"{type(found[0]).__name__} starts a training over, but the fit was to resume from a checkpoint: resume "
            "without it, with the value that it found before."
        )


def refuse_another(trainer: L.Trainer, kind: type[L.Callback]) -> None:
    """Raise a MisconfigurationException where two callbacks of this kind would weight the same losses."""
    names = [type(each).__name__ for each in callbacks_of(trainer, kind)]
    if len(names) > 1:
        raise MisconfigurationException(
            f"The Trainer has {len(names)} callbacks that weight samples ({', '.join(names)}), which would weight each "
            "other's weighted losses: give it one. A weighting may itself call others and multiply what they return."
        )


def refuse_averages(trainer: L.Trainer, who: str, keep: str) -> None:
    """Raise a MisconfigurationException where ``who`` and another callback would both set the final weights."""
    averages = callbacks_of(trainer, WeightAveraging, StochasticWeightAveraging)
    if averages:
        raise MisconfigurationException(
            f"{who} with keep='best' may leave its second network in the module at the end, and "
            f"{type(averages[0]).__name__} leaves the average of the first there: use keep={keep!r}."
        )


def warn_of_one_sided(trainer: L.Trainer, own: Callback, keep: str) -> None:
    """Warn of callbacks that may change a step of the user's network, but not that of the second network of ``own``.

    Lightning's own do not (:class:`LambdaCallback` calls the user's functions), nor do progress bars and savers.
    """
    others = [each for each in trainer.callbacks if each is not own]  # type: ignore[attr-defined]
    found = {type(each).__name__: hooks for each in others if (hooks := _hooks_in_step(each))}
    if found:
        names = "; ".join(f"{name} ({', '.join(hooks)})" for name, hooks in found.items())
        rank_zero_warn(
            f"{type(own).__name__} trains a second network, and callbacks are called for the first alone: {names}. If "
            "they change gradients or parameters (clip, clamp, prune, project, swap in an average), the second network "
            "lacks that: it is not what plain training gives, and keep='best' may leave it in the module; "
            f"use keep={keep!r}, or do it in the module's own hooks, which are run on both. If they only read, nothing "
            "is lost."
        )


def _hooks_in_step(callback: Callback) -> list[str]:
    if isinstance(callback, (Checkpoint, ProgressBar)):
        return []
    ours = ("lightning.pytorch.", "law_lightning.")
    return [hook for hook in _HOOKS_IN_STEP if not str(getattr(callback, hook).__module__).startswith(ours)]


def check_optimizers(module: L.LightningModule, configure: Callable[[], Any]) -> Any:
    """What ``configure_optimizers`` returns, if it is one optimizer; the Trainer's error would mislead."""
    configured = configure()
    with_schedulers = isinstance(configured, tuple) and configured and isinstance(configured[0], (list, tuple))
    first = configured[0] if with_schedulers else configured
    if isinstance(first, (list, tuple)) and len(first) > 1:
        raise MisconfigurationException(
            f"{type(module).__name__}.configure_optimizers returns {len(first)} optimizers; LAW trains with "
            "one. Put all parameters into one optimizer, as parameter groups if their options differ."
        )
    return configured
