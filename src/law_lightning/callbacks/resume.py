"""What a checkpoint must hold of a callback for a fit to go on from it."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from law_lightning.stages.schedule import StageSchedule

#: Neither l_smooth nor acc_smooth comes near it in a fit.
MOST_SMOOTH = 1e6

#: Of what a callback leaves in a checkpoint; to be raised when a state of before can no longer be read as it is.
STATE_FORMAT = 1


def refuse_later(name: str, state: dict[str, Any]) -> None:
    """Raise a MisconfigurationException for a state that a later version wrote.

    Args:
        name: of the callback.
        state: what the checkpoint holds of it.
    """
    found = state.get("format", 1)  # the first checkpoints had no number
    if isinstance(found, int) and found > STATE_FORMAT:
        raise MisconfigurationException(
            f"The checkpoint holds a state of {name} of format {found}, but this version of law-lightning reads "
            f"formats up to {STATE_FORMAT}: install the newer version that wrote it."
        )


def refuse_ended(name: str, state: dict[str, Any]) -> None:
    """Raise a MisconfigurationException for a checkpoint of a fit that was stopped early and had let go of its parts.

    Args:
        name: of the callback.
        state: what the checkpoint holds of it.
    """
    if (state.get("ended") or state.get("chosen")) and state["stage"] < state["num_stages"]:
        raise MisconfigurationException(
            f"The checkpoint was written after its fit had ended early, when {name} no longer had all that it needs to "
            "go on: resume from one that was written during the fit, as by ModelCheckpoint."
        )


def refuse_other_run(trainer: L.Trainer, schedule: StageSchedule, state: dict[str, Any]) -> None:
    """Raise a MisconfigurationException for a checkpoint of a run with other stages or processes.

    Args:
        trainer: the Trainer that resumes.
        schedule: its stages.
        state: what the checkpoint holds of the callback.
    """
    if len(state["processes"]) != trainer.world_size:
        raise MisconfigurationException(
            f"The checkpoint is of a run on {len(state['processes'])} processes, but this one has "
            f"{trainer.world_size}: resume with as many devices."
        )
    before = (state["total_steps"], state["num_stages"])
    if before != (schedule.total_steps, schedule.num_stages):
        raise MisconfigurationException(
            f"The checkpoint is of a run with {before[0]} steps in {before[1]} stages, but this one has "
            f"{schedule.total_steps} in {schedule.num_stages}: resume with the same max_epochs, max_steps, data "
            "and num_stages."
        )


def check_stages(state: dict[str, Any]) -> None:
    """Raise a ValueError for stages, records or metrics that no fit has left.

    Args:
        state: what the checkpoint holds of the callback.
    """
    if not isinstance(state["stage"], int) or not 0 <= state["stage"] <= state["num_stages"]:
        raise ValueError(f"its stage is {state['stage']!r}")
    smooth = (state["loss_smooth"], state["acc_smooth"])
    if not all(state["stage"] == 0 if value is None else abs(value) <= MOST_SMOOTH for value in smooth):
        raise ValueError(f"its loss_smooth and acc_smooth are {smooth}")
    if not all(map(_is_plain, (value for record in state["history"] for value in record.values()))):
        raise ValueError("its history holds more than numbers")
    metrics = state.get("metrics", {})  # files of before have none
    if numbers(metrics).keys() != metrics.keys():
        raise ValueError("its metrics are more than single numbers")


def _is_plain(entry: Any) -> bool:
    """Whether an entry of a record is a number, none, or a list of these."""
    return all(
        each is None or isinstance(each, (int, float)) for each in (entry if isinstance(entry, list) else [entry])
    )


def numbers(metrics: dict[str, Any]) -> dict[str, Tensor]:
    """Those of the metrics that are single numbers, as schedulers and callbacks follow them."""
    return {name: value for name, value in metrics.items() if isinstance(value, Tensor) and value.numel() == 1}


def tell_of_unfinished(state: dict[str, Any]) -> None:
    """Warn of a checkpoint that was written in the middle of something; to refuse it might be to lose the run.

    Args:
        state: what the checkpoint holds of the callback.
    """
    if state.get("in_step"):
        rank_zero_warn(
            "The checkpoint was written in the middle of a step, as by OnExceptionCheckpoint after an error within it. "
            "The step begins anew, but what its first part has changed stays changed (running statistics, random "
            "states, gradients that were being accumulated), so the run may end otherwise than without the stop. From "
            "a checkpoint between two steps it would end the same."
        )
    if state.get("exchanged"):
        rank_zero_warn(
            "The checkpoint was written in a validation, in which WeightAveraging had put the average of the weights "
            "in the network's place, and Lightning goes on as if it had not: the two are exchanged from now on. From "
            "a checkpoint between two steps it would not be so."
        )
