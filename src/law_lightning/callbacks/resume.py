"""Saving and restoring a callback's state in checkpoints, with what Lightning itself does not restore."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import lightning as L
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from law_lightning._compat import restore_data
from law_lightning.capture.part import Part
from law_lightning.stages.clock import StageClock
from law_lightning.utilities.processes import gathered_from_processes
from law_lightning.utilities.randomness import portable_states, set_portable_states
from law_lightning.weighting.base import BaseWeighting, Weighting

#: Version of the state that a callback leaves in a checkpoint; incremented when an earlier one needs conversion.
STATE_FORMAT = 2


class ResumePoint(Part):
    """The global random states, which Lightning does not restore, and from which the order of the data is drawn.

    From a checkpoint of an epoch's end the next epoch is drawn as in the uninterrupted fit. Within an epoch the loaders
    must keep their own state, as torchdata's ``StatefulDataLoader`` does; with others Lightning goes on with an order
    of its own, and a warning says so.
    """

    per_process = True

    def start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """A fit begins."""
        self._trainer = trainer
        self._step_begun: int | None = None  # optimizer steps before the last training_step
        self._is_open = False
        self._restored: dict[str, Any] | None = None

    def before_module_hook(self, hook: str, *args: Any) -> None:
        """The random states are restored once more, as hooks at the start of training may have drawn numbers."""
        if hook == "on_train_epoch_start" and self._restored is not None:
            set_portable_states(self._restored)
        if hook in ("on_train_batch_start", "on_validation_start"):
            self._restored = None

    def before_step(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A step begins, or gradients are accumulated for one."""
        self._step_begun, self._is_open = self._trainer.global_step, True

    def step_is_complete(self) -> None:
        """The batch is done, and so is the end of a stage, if it was its last."""
        self._is_open = False

    def close(self) -> None:
        """Drop the Trainer."""
        vars(self).pop("_trainer", None)

    def state_dict(self) -> dict[str, Any]:
        """The random states, and whether a step is in progress."""
        in_step = self._is_open or self._step_begun == self._trainer.global_step
        return {"random": portable_states(), "in_step": in_step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put the random states back; a warning says what cannot be resumed exactly.

        Raises:
            ValueError: the random states are invalid.
        """
        trainer = self._trainer
        progress = trainer.fit_loop.epoch_loop.batch_progress.current
        within = progress.ready > 0 and progress.processed < trainer.fit_loop.max_batches  # type: ignore[attr-defined]
        stateful = restore_data(trainer, within)
        set_portable_states(state["random"])
        self._restored = state["random"]
        differs = []
        if within and not stateful:
            differs.append(
                "it was written within an epoch, whose order Lightning draws anew (use torchdata's StatefulDataLoader "
                "for the training data, or checkpoints of an epoch's end)"
            )
        if state["in_step"]:
            differs.append("it was written in the middle of a step, whose first part is not undone")
        plateaus = [each for each in trainer.lr_scheduler_configs if each.reduce_on_plateau]
        if plateaus and not within:
            differs.append(
                "Lightning does not step ReduceLROnPlateau at the end of the epoch that a checkpoint was written in"
            )
        if differs:
            rank_zero_warn(
                "The fit resumes from the checkpoint, but its result may differ from that of an uninterrupted fit: "
                f"{'; '.join(differs)}."
            )


def fit_state(clock: StageClock, parts: Mapping[str, Part], weighting: Weighting, fitting: bool) -> dict[str, Any]:
    """What a checkpoint holds of a callback; without its parts where the fit has ended: it cannot be resumed from."""
    own: dict[str, Any] = {}
    if isinstance(weighting, BaseWeighting):
        own["weighting"] = weighting.state_dict()
    shared: dict[str, Any] = {"format": STATE_FORMAT, "ended": not fitting, "clock": clock.state_dict()}
    for name, part in parts.items() if fitting else ():
        (own if part.per_process else shared)[name] = part.state_dict()
    return shared | {"processes": gathered_from_processes(own)}


def load_fit_state(
    trainer: L.Trainer,
    name: str,
    clock: StageClock,
    parts: Mapping[str, Part],
    weighting: Weighting,
    state: dict[str, Any],
) -> None:
    """Restore a state returned by :func:`fit_state`, of the callback ``name``; the parts have started.

    Raises:
        MisconfigurationException: the state is that of another run.
    """
    _refuse_other_run(trainer, name, clock, state)
    clock.load_state_dict(state["clock"])
    own = state["processes"][trainer.global_rank]
    if isinstance(weighting, BaseWeighting) and own.get("weighting") is not None:
        weighting.load_state_dict(own["weighting"])
    for key, part in parts.items():
        if (found := (own if part.per_process else state).get(key)) is not None:
            part.load_state_dict(found)


@contextmanager
def damage_as_misconfiguration(name: str) -> Iterator[None]:
    """Raise one clear error for whatever a damaged state of the callback ``name`` raises."""
    try:
        yield
    except MisconfigurationException:
        raise
    except Exception as error:  # a foreign state can fail in any way
        raise MisconfigurationException(
            f"What the checkpoint holds of {name} is damaged ({type(error).__name__}: {error}): "
            "resume from another one, or start over."
        ) from error


def _refuse_other_run(trainer: L.Trainer, name: str, clock: StageClock, state: dict[str, Any]) -> None:
    if len(state["processes"]) != trainer.world_size:
        raise MisconfigurationException(
            f"The checkpoint belongs to a run on {len(state['processes'])} processes, but this one has "
            f"{trainer.world_size}: resume with as many devices."
        )
    stages = state["clock"]
    before = (stages["total_steps"], stages["num_stages"])
    if before != (clock.total_steps, clock.num_stages):
        raise MisconfigurationException(
            f"The checkpoint belongs to a run with {before[0]} steps in {before[1]} stages, but this one has "
            f"{clock.total_steps} in {clock.num_stages}: resume with the same max_epochs, max_steps, data, "
            "num_stages, and patience of EarlyStopping."
        )
    if state["ended"] and stages["stage"] < stages["num_stages"]:
        raise MisconfigurationException(
            f"The checkpoint was written after its fit had ended early, when {name} no longer had all that it needs to "
            "go on: resume from one that was written during the fit, as by ModelCheckpoint."
        )


def upgraded(name: str, state: dict[str, Any]) -> dict[str, Any]:
    """The state of the callback ``name``, of any earlier format, converted to the present one.

    Raises:
        MisconfigurationException: a later version wrote it.
    """
    found = state.get("format", 1)  # the first checkpoints had no number
    if isinstance(found, int) and found > STATE_FORMAT:
        raise MisconfigurationException(
            f"The checkpoint holds a state of {name} of format {found}, but this version of law-lightning reads "
            f"formats up to {STATE_FORMAT}: install the newer version that wrote it."
        )
    if not state or found == STATE_FORMAT:
        return state
    stages = ("total_steps", "num_stages", "stage", "loss_smooth", "acc_smooth", "history")
    clock = {key: state[key] for key in stages}
    if clock["stage"] == 0:  # None stood for the values before anything was learned
        clock |= {"loss_smooth": 1.0, "acc_smooth": 0.0}
    # The statistics of the unfinished stage are left out: they begin at the checkpoint.
    processes = [
        {
            "weighting": own.get("weighting"),
            "resume": {"random": own["order"]["now"], "in_step": state.get("in_step", False)},
        }
        for own in state["processes"]
    ]
    peer = state.get("peer")
    return state | {
        "format": STATE_FORMAT,
        "ended": state.get("ended", False) or state.get("chosen", False),
        "clock": clock,
        "processes": processes,
        "peer": None if peer is None else {"network": peer},
        "reference": {"network": state.get("reference")},
    }
