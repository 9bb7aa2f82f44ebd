"""Any weighting on anyone's module."""

from __future__ import annotations

import functools
import math
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

from law_lightning import functional as LF
from law_lightning.callbacks.checks import refuse_several_optimizers, refuse_training, restore, schedule_of
from law_lightning.callbacks.labels import truth_loader, weights_by_label
from law_lightning.callbacks.order import DataOrder, of_every_process
from law_lightning.callbacks.statistics import StageStatistics
from law_lightning.capture import TWO_WAYS, LossCapture
from law_lightning.duplicate import WRAPPED
from law_lightning.samples import Samples
from law_lightning.stages import StageSchedule, TrainingPhase
from law_lightning.weighting.base import BaseWeighting, Weighting, checked_weights, is_attached

Record = dict[str, Any]

#: Cuts off l_smooth: so many times the loss of a uniform guess says that a training has diverged, no more.
MOST_LOSS = 10.0


class WeightingCallback(L.Callback):
    """Weights the per-sample losses of a module's ``training_step``; the module itself stays as it is.

    During a fit the module's ``training_step`` is wrapped on the instance; afterwards it is as it was. The run is cut
    into stages (3SM), which give the weighting its training phase and the history its records.

    Args:
        weighting: ``weighting(samples, phase) -> weights [B]``.
        num_stages: T_max.
        warmup_stages: the first stages, in which every sample weighs 1.
        smoothing: share of the old average that stays in l_smooth and acc_smooth after a stage, in [0, 1).
        analyse_labels: at every stage end, go through the training data once more and record ``weight_clean`` and
            ``weight_wrong``, the mean weights of samples with a right and with a wrong label. Needs a data module that
            knows which are wrong; the training itself does not change.

    Attributes:
        history: a record per finished stage, as plain numbers: ``stage``, ``step``, ``epoch``, ``loss``, ``accuracy``
            (both of training), ``loss_smooth``, ``acc_smooth`` and the weights' ``weight_mean``, ``weight_std``,
            ``weight_min``, ``weight_max``, ``weight_per_class``.
    """

    def __init__(
        self,
        weighting: Weighting,
        *,
        num_stages: int = 20,
        warmup_stages: int = 0,
        smoothing: float = 0.5,
        analyse_labels: bool = False,
    ) -> None:
        if not callable(weighting):
            raise ValueError(f"weighting must be a function of samples and phase, not {weighting!r}.")
        if not 0 <= smoothing < 1:
            raise ValueError(f"smoothing must be in [0, 1), not {smoothing}.")
        StageSchedule(num_stages, num_stages, warmup_stages)  # names bad arguments
        self.weighting = weighting
        self.num_stages = num_stages
        self.warmup_stages = warmup_stages
        self.smoothing = smoothing
        self.analyse_labels = analyse_labels
        self.history: list[Record] = []
        self.schedule: StageSchedule | None = None
        self._stage = 0
        self._loss_smooth: float | None = None
        self._acc_smooth: float | None = None
        self._stage_phase = self.phase
        self._statistics = StageStatistics()
        self._order: DataOrder | None = None
        self._found_samples = False
        self._loss_is_used = False
        self._truth: Any = None
        self._fitting = False
        self._loaded: dict[str, Any] | None = None

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

    def scalars(self, record: Record) -> dict[str, float]:
        """A record's numbers under their log keys."""
        names = ("mean", "std", "min", "max", "clean", "wrong")
        scalars = {f"law/weight/{name}": record.get(f"weight_{name}") for name in names}
        return {name: value for name, value in scalars.items() if value is not None}

    def before_step(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Called with the arguments of every ``training_step``, before it."""

    def after_step(self, capture: LossCapture) -> None:
        """Called with what a ``training_step`` revealed, after it."""

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
    def attached(self) -> bool:
        """Whether samples come with their graph, so that gradients may flow through the weights."""
        return is_attached(self.weighting)

    @property
    def in_warmup(self) -> bool:
        """Whether every sample weighs 1 for now."""
        return self._stage < self.warmup_stages

    # -- before training -----------------------------------------------------------------------------------

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse what cannot work, before anything runs."""
        # A checkpoint is restored after this, also for a test or a validation, which must not leak into a later fit.
        self._fitting, self._loaded = stage == "fit", None
        if not self._fitting:
            return
        self.schedule, self._order = None, DataOrder()
        refuse_training(trainer, pl_module)
        refuse_several_optimizers(pl_module)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The data order of the first epoch is still to be drawn."""
        if trainer.fit_loop._combined_loader is None and self._order is not None:
            self._order.note_epoch(trainer)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Cut the run into stages and begin to weight."""
        self._truth = truth_loader(trainer) if self.analyse_labels else None
        self.schedule = schedule_of(trainer, self.num_stages, self.warmup_stages)
        self.history = []
        self._stage, self._loss_smooth, self._acc_smooth = 0, None, None
        self._statistics = StageStatistics()
        self._found_samples = self._loss_is_used = False
        if isinstance(self.weighting, BaseWeighting):
            self.weighting.start(trainer)
        state, self._loaded = self._loaded, None
        if state is not None:
            self._resume(trainer, pl_module, state)
        else:
            if trainer.global_step > 0:
                raise MisconfigurationException(
                    f"LAW cuts a whole training into stages, but this one is already at step {trainer.global_step}: "
                    "begin anew, or resume from a checkpoint that was made with the callback."
                )
            self._start(trainer, pl_module)
            self._stage_phase = self.phase
            self.start_stage(trainer, pl_module)
        self._wrap(pl_module)

    def _start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Called once at the beginning of a fit that is not resumed."""

    # -- steps ---------------------------------------------------------------------------------------------

    def _wrap(self, module: L.LightningModule) -> None:
        original, attached = module.training_step, self.attached

        @functools.wraps(original)
        def training_step(*args: Any, **kwargs: Any) -> Any:
            self.before_step(args, kwargs)
            on_use = None if self._loss_is_used else self._note_use
            check = not self._found_samples
            with LossCapture(self._weigh, attached=attached, check_labels=check, on_use=on_use) as capture:
                output = original(*args, **kwargs)
            output = capture.take_output(output)
            if not capture.samples and not self._found_samples and output is not None:
                raise MisconfigurationException(
                    f"{type(module).__name__}.training_step reveals no per-sample loss, so LAW cannot weight it. "
                    + TWO_WAYS
                )
            self._found_samples = self._found_samples or bool(capture.samples)
            self.after_step(capture)
            return output

        setattr(training_step, WRAPPED, vars(module).get("training_step"))
        vars(module)["training_step"] = training_step

    def _note_use(self, gradient: Tensor) -> None:
        self._loss_is_used = True

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Refuse a module whose classification losses are not part of what it trains on."""
        if self._found_samples and not self._loss_is_used:
            raise MisconfigurationException(
                f"{type(pl_module).__name__}.training_step computes a classification loss, but what it returns does "
                "not depend on it, so LAW would weight nothing. " + TWO_WAYS
            )

    def _weigh(self, samples: Samples) -> Tensor | None:
        weights = self._weights(samples)
        if self.attached:
            self._statistics.add(samples.detach(), None if weights is None else weights.detach())
        else:
            self._statistics.add(samples, weights)
        return weights

    def _weights(self, samples: Samples) -> Tensor | None:
        return None if self.in_warmup else checked_weights(self.weighting, samples, self._stage_phase)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """From the second epoch on, the data order is drawn right after this."""
        if self._order is not None and trainer.current_epoch > 0:
            self._order.note_epoch(trainer)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """End the stage if its last step was taken."""
        assert self.schedule is not None
        if self._stage >= self.num_stages or trainer.global_step < self.schedule.end(self._stage):
            return
        summary = self._statistics.summary(trainer)
        chance = math.log(summary["num_classes"]) if summary["num_classes"] > 1 else 1.0
        record: Record = {
            "stage": self._stage,
            "step": trainer.global_step,
            "epoch": trainer.current_epoch,
            **{name: value for name, value in summary.items() if name != "num_classes"},
        }
        if self._truth is not None:
            record |= weights_by_label(trainer, pl_module, self._weights, self._truth)
        # A training that diverges must not drive the strategy's networks out of all bounds.
        loss = min(summary["loss"] / chance, MOST_LOSS)
        self._loss_smooth = LF.smooth(self._loss_smooth, loss, self.smoothing)
        self._acc_smooth = LF.smooth(self._acc_smooth, summary["accuracy"], self.smoothing)
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

    @staticmethod
    def _log(trainer: L.Trainer, scalars: dict[str, float]) -> None:
        """One row a stage to every logger, whatever ``log_every_n_steps``; and to the callback metrics."""
        step = trainer.fit_loop.epoch_loop._batches_that_stepped
        for logger in trainer.loggers:
            logger.log_metrics(scalars, step=step)
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in scalars.items()})

    # -- afterwards ----------------------------------------------------------------------------------------

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Leave the module as it was."""
        self._unwrap(pl_module)
        self._fitting, self._loaded = False, None

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Leave the module as it was."""
        self._unwrap(pl_module)

    def _unwrap(self, module: L.LightningModule) -> None:
        self._truth = None
        for name in ("training_step", "configure_optimizers"):
            restore(module, name)

    # -- state ---------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the run depends on: tensors and plain Python."""
        if self.schedule is None or self._order is None:
            return {}
        return {
            "total_steps": self.schedule.total_steps,
            "num_stages": self.num_stages,
            "stage": self._stage,
            "loss_smooth": self._loss_smooth,
            "acc_smooth": self._acc_smooth,
            "history": [dict(record) for record in self.history],
            "processes": of_every_process(
                {
                    "statistics": self._statistics.state_dict(),
                    "order": self._order.state_dict(),
                    "weighting": self.weighting.state_dict() if isinstance(self.weighting, BaseWeighting) else {},
                }
            ),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state of a checkpoint until the fit that resumes from it begins."""
        self._loaded = (state_dict or None) if self._fitting else None

    def _resume(self, trainer: L.Trainer, module: L.LightningModule, state: dict[str, Any]) -> None:
        assert self.schedule is not None
        assert self._order is not None
        if len(state["processes"]) != trainer.world_size:
            raise MisconfigurationException(
                f"The checkpoint is of a run on {len(state['processes'])} processes, but this one has "
                f"{trainer.world_size}: resume with as many devices."
            )
        before = (state["total_steps"], state["num_stages"])
        if before != (self.schedule.total_steps, self.num_stages):
            raise MisconfigurationException(
                f"The checkpoint is of a run with {before[0]} steps in {before[1]} stages, but this one has "
                f"{self.schedule.total_steps} in {self.num_stages}: resume with the same max_epochs, max_steps, data "
                "and num_stages."
            )
        self._stage = state["stage"]
        self._loss_smooth, self._acc_smooth = state["loss_smooth"], state["acc_smooth"]
        self._stage_phase = self.phase
        self.history = [dict(record) for record in state["history"]]
        own = state["processes"][trainer.global_rank]
        self._statistics.load_state_dict(own["statistics"], trainer.strategy.root_device)
        self._order.restore(trainer, own["order"])
        if isinstance(self.weighting, BaseWeighting):
            self.weighting.load_state_dict(own.get("weighting", {}))
