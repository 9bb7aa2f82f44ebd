"""A resumed fit steps ReduceLROnPlateau as often as the uninterrupted one.

Lightning does not step it at the end of the epoch that a checkpoint was written in, as it keeps no metrics.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from law_lightning._compat import do_not_restart


def _plateaus(trainer: L.Trainer) -> list[Any]:
    return [each for each in trainer.lr_scheduler_configs if each.reduce_on_plateau and each.interval == "epoch"]


def catch_up(trainer: L.Trainer, module: L.LightningModule, before: Mapping[str, Any]) -> bool:
    """Called when a resumed fit begins: take the step that is missing in the checkpoint.

    Args:
        trainer: the Trainer.
        module: the user's module.
        before: the metrics of the checkpoint, single numbers.

    Returns:
        Whether the epoch that was stopped is still to be validated, after which the schedulers must step.
    """
    loop = trainer.fit_loop
    validated = loop.epoch_loop.restarted_on_last  # the epoch of the checkpoint has but to end
    for each in _plateaus(trainer):
        if each.scheduler.last_epoch >= (trainer.current_epoch + validated) // each.frequency:
            continue
        if each.monitor not in before or not (validated or loop.resumed_on_epoch_end):
            # The run goes on: to refuse it might be to lose it.
            rank_zero_warn(
                "The checkpoint was written after the last step of an epoch and before its validation, which Lightning "
                f"does not make up for, so ReduceLROnPlateau misses one value of {each.monitor!r}, and the run may end "
                "otherwise than without the stop. From a checkpoint of another step, or one that was written after "
                "validation, it would end the same."
            )
            continue
        module.lr_scheduler_step(each.scheduler, torch.as_tensor(before[each.monitor]))
    return not validated


def step_at_epoch_end(trainer: L.Trainer) -> None:
    """Called at the end of the epoch that was stopped, with the metrics of its validation at hand."""
    if all(each.monitor in trainer.callback_metrics for each in _plateaus(trainer)):
        do_not_restart(trainer)  # else the Trainer leaves them out; it says so itself right after
