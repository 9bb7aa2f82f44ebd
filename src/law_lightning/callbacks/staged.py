"""3SM on any fit: it is cut into stages, each of which leaves a record and the phase in which the next one begins."""

from __future__ import annotations

import math
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from law_lightning import functional as LF
from law_lightning._compat import logged_step
from law_lightning.callbacks.checks import (
    refuse_neighbours,
    refuse_several_optimizers,
    refuse_training,
    restore,
    schedule_of,
)
from law_lightning.callbacks.plateau import catch_up
from law_lightning.callbacks.resumable import ResumableCallback
from law_lightning.callbacks.resume import check_stages, refuse_other_run, tell_of_unfinished
from law_lightning.stages.schedule import StageSchedule, TrainingPhase
from law_lightning.stages.statistics import StageStatistics

Record = dict[str, Any]

#: Cuts off l_smooth: so many times the loss of a uniform guess says that a training has diverged, no more.
MOST_LOSS = 10.0


class StagedCallback(ResumableCallback):
    """Cuts a fit into stages, and goes on within one when the fit is resumed.

    A subclass gives ``_statistics`` what it sees of the samples.

    Args:
        num_stages: T_max.
        warmup_stages: the first stages, in which every sample weighs 1.
        smoothing: share of the old average that stays in l_smooth and acc_smooth after a stage, in [0, 1).

    Attributes:
        history: a record per finished stage, as plain numbers.
        schedule: the stages of the fit; None before it begins.
    """

    def __init__(self, num_stages: int, warmup_stages: int, smoothing: float) -> None:
        super().__init__()
        if not 0 <= smoothing < 1:
            raise ValueError(f"smoothing must be in [0, 1), not {smoothing}.")
        StageSchedule(num_stages, num_stages, warmup_stages)  # names bad arguments
        self.num_stages = num_stages
        self.warmup_stages = warmup_stages
        self.smoothing = smoothing
        self.history: list[Record] = []
        self.schedule: StageSchedule | None = None
        self._stage = 0
        self._loss_smooth: float | None = None
        self._acc_smooth: float | None = None
        self._stage_phase = self.phase
        self._statistics, self._told = StageStatistics(), False

    # -- what a subclass adds ------------------------------------------------------------------------------

    def start_stage(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Called at the beginning of every stage."""

    def end_stage(self, trainer: L.Trainer, module: L.LightningModule, record: Record, phase: TrainingPhase) -> None:
        """Called at the end of every stage.

        Args:
            trainer: the Trainer.
            module: the user's module.
            record: the stage's entry of the history, to be added to.
            phase: s_{T+1}, in which the next stage begins.
        """

    def analyse(self, trainer: L.Trainer, module: L.LightningModule) -> Record:
        """Further entries of the record of the stage that ends, found by looking at the network."""
        return {}

    def measure(self, trainer: L.Trainer, module: L.LightningModule, record: Record) -> tuple[float, float]:
        """What the stage that ends contributes to l_smooth and acc_smooth: its training loss and accuracy.

        Args:
            trainer: the Trainer.
            module: the user's module.
            record: the stage's entry of the history, to be added to.
        """
        return phase_loss(record, relative=True), record["accuracy"]

    def scalars(self, record: Record) -> dict[str, float]:
        """A record's numbers under their log keys."""
        return {}

    def restore(self, module: L.LightningModule) -> None:
        """Leave the user's module as it was, whether the fit ended or failed."""
        super().restore(module)
        restore(module, "configure_optimizers")

    # -- the phase -----------------------------------------------------------------------------------------

    @property
    def phase(self) -> TrainingPhase:
        """s_T; before anything was learned the loss is that of a uniform guess and the accuracy 0."""
        return TrainingPhase(
            stage=min(self._stage, self.num_stages - 1),
            num_stages=self.num_stages,
            loss_smooth=1.0 if self._loss_smooth is None else self._loss_smooth,
            acc_smooth=0.0 if self._acc_smooth is None else self._acc_smooth,
        )

    @property
    def in_warmup(self) -> bool:
        """Whether every sample weighs 1 for now."""
        return self._stage < self.warmup_stages

    # -- before training -----------------------------------------------------------------------------------

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse what cannot work, before anything runs."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self.schedule = None
            refuse_training(trainer, pl_module)
            refuse_several_optimizers(pl_module)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse callbacks that do not go together."""
        refuse_neighbours(trainer, pl_module, resumes=self._loaded is not None)
        super().on_fit_start(trainer, pl_module)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Cut the run into stages."""
        self.schedule = schedule_of(trainer, self.num_stages, self.warmup_stages)
        super().on_train_start(trainer, pl_module)
        self.history = []
        self._stage, self._loss_smooth, self._acc_smooth = 0, None, None
        self._statistics, self._told = StageStatistics(), False
        state, self._loaded = self._loaded, None
        if state is not None:
            self.go_on(trainer, pl_module, state)
            return
        if trainer.global_step > 0:
            raise MisconfigurationException(
                f"LAW cuts a whole training into stages, but this one is already at step {trainer.global_step}: "
                "begin anew, or resume from a checkpoint that was made with the callback."
            )
        self._start(trainer, pl_module)
        self._stage_phase = self.phase
        self.start_stage(trainer, pl_module)

    def _start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Called once at the beginning of a fit that is not resumed."""

    # -- stages --------------------------------------------------------------------------------------------

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """End the stage if its last step was taken."""
        assert self.schedule is not None
        if self._stage < self.num_stages and trainer.global_step >= self.schedule.end(self._stage):
            self._end_stage(trainer, pl_module)
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def _end_stage(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert self.schedule is not None
        summary = self._statistics.summary(trainer)
        self._tell(summary)
        record: Record = {
            "stage": self._stage,
            "step": trainer.global_step,
            "epoch": trainer.current_epoch,
            **summary,
            **self.analyse(trainer, pl_module),
        }
        loss, accuracy = self.measure(trainer, pl_module, record)
        self._loss_smooth = LF.smooth(self._loss_smooth, loss, self.smoothing)
        self._acc_smooth = LF.smooth(self._acc_smooth, accuracy, self.smoothing)
        record |= {"loss_smooth": self._loss_smooth, "acc_smooth": self._acc_smooth}
        following = TrainingPhase(
            min(self._stage + 1, self.num_stages - 1), self.num_stages, self._loss_smooth, self._acc_smooth
        )
        self.end_stage(trainer, pl_module, record, following)
        self.history.append(record)
        self._log(trainer, self.scalars(record))
        self._stage += 1
        if self._stage < self.num_stages:
            self._stage_phase = self.phase
            self.start_stage(trainer, pl_module)

    def _tell(self, summary: dict[str, Any]) -> None:
        """Warn of numbers gone wrong, once a fit."""
        lost = self._statistics.num_lost
        wrong = [f"{lost} losses"] * (lost > 0)
        wrong += ["weights"] * (not math.isfinite(summary["weight_mean"]))
        if wrong and not self._told:
            self._told = True
            rank_zero_warn(
                f"In stage {self._stage}, {' and '.join(wrong)} of samples were NaN or infinite. They take no part in "
                "l_smooth, but the network trains on them as it would without LAW, and may be lost: look for such "
                "values in the data, lower the learning rate, or set the Trainer's gradient_clip_val. Later stages "
                "will not be warned of."
            )

    @staticmethod
    def _log(trainer: L.Trainer, scalars: dict[str, float]) -> None:
        """One row a stage to every logger, whatever ``log_every_n_steps``; and to the callback metrics."""
        step = logged_step(trainer)
        for logger in trainer.loggers:
            logger.log_metrics(scalars, step=step)
        _show(trainer, scalars)

    def is_over(self, trainer: L.Trainer) -> bool:
        """Whether the last step was taken, or the Trainer means to stop."""
        return super().is_over(trainer) or (
            self.schedule is not None and trainer.global_step >= self.schedule.total_steps
        )

    # -- state ---------------------------------------------------------------------------------------------

    def process_state(self) -> dict[str, Any]:
        """What each process has for itself: tensors and plain Python."""
        return super().process_state() | {"statistics": self._statistics.state_dict()}

    def load_process_state(self, trainer: L.Trainer, own: dict[str, Any]) -> None:
        """Go on where :meth:`process_state` was taken on this process."""
        self._statistics.load_state_dict(own["statistics"], trainer.strategy.root_device)

    def fit_state(self) -> dict[str, Any]:
        """Everything that the rest of the run depends on: tensors and plain Python."""
        assert self.schedule is not None
        return super().fit_state() | {
            "total_steps": self.schedule.total_steps,
            "num_stages": self.num_stages,
            "stage": self._stage,
            "loss_smooth": self._loss_smooth,
            "acc_smooth": self._acc_smooth,
            "history": [dict(record) for record in self.history],
        }

    def load_results(self, trainer: L.Trainer, module: L.LightningModule, state: dict[str, Any]) -> None:
        """Take over what a fit came to that has ended."""
        self._load_stages(state)
        if len(state["processes"]) == trainer.world_size:  # what each process has is of no use to another number
            self.load_process_state(trainer, state["processes"][trainer.global_rank])

    def _resume(self, trainer: L.Trainer, module: L.LightningModule, state: dict[str, Any]) -> None:
        assert self.schedule is not None
        refuse_other_run(trainer, self.schedule, state)
        tell_of_unfinished(state)
        self._load_stages(state)
        own = state["processes"][trainer.global_rank]
        self.load_process_state(trainer, own)
        validating = own["order"].get("validation_start") is not None  # the Trainer will do it anew
        metrics = state.get("metrics", state.get("monitored", {}))  # files of before have those of schedulers alone
        self._plateau_is_due = validating or catch_up(trainer, module, metrics)
        if "metrics" not in state and self.history:
            _show(trainer, self.scalars(self.history[-1]))

    def _load_stages(self, state: dict[str, Any]) -> None:
        check_stages(state)
        smooth = (state["loss_smooth"], state["acc_smooth"])
        self._stage = state["stage"]
        self._loss_smooth, self._acc_smooth = (None if value is None else float(value) for value in smooth)
        self._stage_phase = self.phase
        self.history = [dict(record) for record in state["history"]]


def phase_loss(record: Record, relative: bool) -> float:
    """A stage's mean training loss, cut off where a training has diverged.

    Args:
        record: of the stage.
        relative: in units of log C, the loss of a uniform guess over C classes.
    """
    classes = len(record["weight_per_class"])
    chance = math.log(classes) if classes > 1 else 1.0
    # A training that diverges must not drive the strategy's networks out of all bounds.
    loss = float(min(max(record["loss"] / chance, -MOST_LOSS), MOST_LOSS))
    return loss if relative else loss * chance


def _show(trainer: L.Trainer, scalars: dict[str, float]) -> None:
    """Let callbacks such as EarlyStopping monitor these numbers."""
    trainer.callback_metrics.update({name: torch.tensor(value) for name, value in scalars.items()})
