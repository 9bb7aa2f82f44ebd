"""Any weighting on any LightningModule: the only class that implements Lightning's training hooks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

from law_lightning._compat import logged_step
from law_lightning.callbacks.checks import check_fit, check_optimizers, refuse_another, refuse_others
from law_lightning.callbacks.labels import truth_loader, weights_by_label
from law_lightning.callbacks.resume import ResumePoint, damage_as_misconfiguration, fit_state, load_fit_state, upgraded
from law_lightning.callbacks.stage_lengths import check_end, schedule_of, warn_of_unreached
from law_lightning.capture.part import Part
from law_lightning.capture.sample_index import SampleIndex
from law_lightning.capture.samples import Samples
from law_lightning.capture.weighted_step import WeightedStep
from law_lightning.capture.wrap import unwrap, wrap
from law_lightning.stages.clock import Record, StageClock, phase_loss
from law_lightning.stages.curves import WeightCurves
from law_lightning.stages.dynamics import SampleDynamics
from law_lightning.stages.schedule import StageSchedule, TrainingPhase
from law_lightning.stages.statistics import StageStatistics
from law_lightning.utilities.step_axes import log_over
from law_lightning.weighting.base import BaseWeighting, Weighting, checked_weights, unweighted


class WeightingCallback(L.Callback):
    """Weights the per-sample losses of a module's ``training_step``; the module itself stays as it is.

    During a fit the module's ``training_step`` is wrapped on the instance; afterwards it is as it was. The run is cut
    into stages (3SM), which give the weighting its training phase and the history its records.

    Subclasses override the methods of the first section below and hold further parts; Lightning's hooks are
    implemented here alone.

    Args:
        weighting: ``weighting(samples, phase) -> weights [B]``; with ``unweighted``, from law_lightning.weighting, the
            callback only watches plain training, for :meth:`suspects`: it demands no loss that can be weighted.
        num_stages: T_max.
        warmup_stages: the first stages, in which every sample weighs 1.
        smoothing: weight of the previous average in l_smooth and acc_smooth, in [0, 1).
        analyse_labels: at every stage end, go through the training data once more and record ``weight_clean`` and
            ``weight_wrong``, the mean weights of samples with a right and with a wrong label, and quantiles of these
            weights. Needs a data module that knows which are wrong; the training itself does not change.
        total_steps: optimizer steps to cut into stages, for a training whose end is open (EarlyStopping, ``max_time``,
            ``max_epochs=-1``); a longer training stays in the last stage. By default those of the whole training, as
            far as the Trainer can count them.

    Attributes:
        history: a record per finished stage, as plain numbers: ``stage``, ``step``, ``epoch``, ``loss``, ``accuracy``
            (both of training), ``loss_smooth``, ``acc_smooth``, ``noise_smooth`` and the weights' ``weight_mean``,
            ``weight_std``, ``weight_min``, ``weight_max``, ``weight_per_class``; after the warm-up also
            ``weight_by_loss`` and ``weight_by_margin`` (:class:`~law_lightning.stages.curves.WeightCurves`).
        schedule: the stages of the fit; None before it begins.
        dynamics: what the training shows of each sample: ``dynamics.table()``.

    Raises:
        ValueError: an argument is out of its range.
    """

    #: All stages end within this many times the patience of an EarlyStopping; None cuts them from the whole training.
    patience_factor: int | None = None

    def __init__(
        self,
        weighting: Weighting,
        *,
        num_stages: int = 20,
        warmup_stages: int = 0,
        smoothing: float = 0.5,
        analyse_labels: bool = False,
        total_steps: int | None = None,
    ) -> None:
        if not callable(weighting):
            raise ValueError(f"weighting must be a function of samples and phase, not {weighting!r}.")
        self.weighting = weighting
        self.analyse_labels = analyse_labels
        self.total_steps = total_steps
        if total_steps is not None and not (isinstance(total_steps, int) and total_steps >= num_stages):
            raise ValueError(
                f"total_steps must be a whole number of at least num_stages={num_stages}, not {total_steps}."
            )
        self.clock = StageClock(num_stages, warmup_stages, smoothing)
        self.statistics = StageStatistics()
        self._curves = WeightCurves()
        self.dynamics = SampleDynamics()
        self._index = SampleIndex()
        self._resume_point = ResumePoint()
        self._acting: dict[str, Part] = {}  # all parts of the present fit
        self._fitting = self._began = False
        self._loaded: dict[str, Any] | None = None
        self._truth: Any = None

    # -- what a subclass overrides ---------------------------------------------------------------------------------

    @property
    def parts(self) -> dict[str, Part]:
        """The parts by name, in the order in which they act in every hook; the statistics follow them."""
        return {}

    @property
    def attached(self) -> bool:
        """Whether samples come with their graph, so that gradients may flow through the weights."""
        return getattr(self.weighting, "attached", False)

    def check(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Refuse a Trainer or a module that does not fit, before anything runs."""

    def prepare(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Try what the fit needs (data, copies), before its first step; the parts have started."""

    def start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """A fit begins that is not resumed."""

    def start_stage(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """A stage begins."""

    def before_batch(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """A batch begins."""

    def weights(self, samples: Samples) -> Tensor | None:
        """The weights [B] of a loss of the present step, after the warm-up; None for ones."""
        return checked_weights(self.weighting, samples, self.clock.phase)

    def measure(self, trainer: L.Trainer, module: L.LightningModule, record: Record) -> tuple[float, ...]:
        """What the stage that ends contributes to l_smooth and acc_smooth (Equation 5), and to noise_smooth if it does.

        Args:
            trainer: the Trainer.
            module: the user's module.
            record: the stage's entry of the history, to be added to.

        Returns:
            By default its training loss, in units of the loss of a uniform guess, and its training accuracy.
        """
        return phase_loss(record, relative=True), record["accuracy"]

    def end_stage(self, trainer: L.Trainer, module: L.LightningModule, record: Record, phase: TrainingPhase) -> None:
        """A stage ends.

        Args:
            trainer: the Trainer.
            module: the user's module.
            record: the stage's entry of the history, to be added to.
            phase: s_{T+1}, in which the next stage begins.
        """

    def finish(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """The last step was taken."""

    def scalars(self, record: Record) -> dict[str, float]:
        """A record's numbers under their log keys; none where every sample weighs 1 for good."""
        if self._only_watches:
            return {}
        names = ("mean", "std", "min", "max", "clean", "wrong")
        scalars = {f"law/weight/{name}": record.get(f"weight_{name}") for name in names}
        scalars |= {f"law/{name}": record.get(name) for name in ("stage", "loss", "weighted_loss")}
        return {name: value for name, value in scalars.items() if value is not None}

    def extra_state(self) -> dict[str, Any]:
        """What a subclass adds to the state in a checkpoint, also after the fit: tensors and plain Python."""
        return {}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Restore a state returned by :meth:`extra_state`; may raise any exception on an invalid one."""

    @property
    def _only_watches(self) -> bool:
        return self.weighting is unweighted and type(self).weights is WeightingCallback.weights

    # -- the stages ------------------------------------------------------------------------------------------------

    @property
    def num_stages(self) -> int:
        """T_max."""
        return self.clock.num_stages

    @property
    def warmup_stages(self) -> int:
        """The first stages, in which every sample weighs 1."""
        return self.clock.warmup_stages

    @property
    def schedule(self) -> StageSchedule | None:
        """The stages of the fit; None before it begins."""
        return self.clock.schedule

    @property
    def history(self) -> list[Record]:
        """A record per finished stage."""
        return self.clock.history

    def suspects(self, k: int | None = None) -> list[dict[str, Any]]:
        """The samples whose labels are most likely wrong, by the network's predictions in all training steps.

        Also during a fit, of the epochs so far. How good they are: docs/suspects.md.

        Args:
            k: how many; by default those whose margin (the label's probability minus the largest other) is below 0 in
                the mean over the run. That is an estimate of the number of wrong labels: low after a long training,
                which fits them, and high after one of a few epochs.

        Returns:
            Records of plain numbers, the likeliest first: ``index``, the sample's place in the training loader's
            dataset; ``given``, its label; ``predicted``, the class that was most often predicted in place of it; and
            ``score``, how far the margin is below 0 in the mean, 0 in steps where it is not; in [0, 1].

        Raises:
            ValueError: k is negative.
            MisconfigurationException: there was no training, or its samples are not known by index.
        """
        if k is not None and k < 0:
            raise ValueError(f"k, a number of samples, must be at least 0, not {k}.")
        found = self.dynamics.suspects(k)
        if not found and not len(self.dynamics.table()["index"]):
            why = "its samples have several labels each" if self.dynamics.many_labels else self._index.why_unknown
            raise MisconfigurationException(
                f"{type(self).__name__} has recorded no sample of the training data. "
                + (
                    "Fit with it first."
                    if why is None
                    else f"In the last fit {why}. It needs the Trainer to have one "
                    "DataLoader of a map-style dataset, and a loss whose rows and labels are those of the batch."
                )
            )
        return found

    # -- before training -------------------------------------------------------------------------------------------

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse what cannot work, before anything runs."""
        # A checkpoint is restored after this, also for a test or a validation, which must not change a later fit.
        self._fitting, self._loaded = stage == "fit", None
        if not self._fitting:
            return
        self._began = False
        self._unwrap(pl_module)  # an earlier fit may have failed
        self._close()
        refuse_another(trainer, WeightingCallback)
        check_fit(trainer, pl_module)
        check_end(trainer, self.total_steps, self.patience_factor)
        self.check(trainer, pl_module)
        self._index.open(trainer)
        wrap(pl_module, "configure_optimizers", check_optimizers)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse other callbacks that change the stages."""
        unwrap(pl_module, "configure_optimizers")
        refuse_others(trainer, pl_module, resumes=self._loaded is not None, weights=not self._only_watches)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Cut the run into stages and begin to weight, or resume from a checkpoint."""
        self._truth = truth_loader(trainer) if self.analyse_labels else None
        resumes = self._loaded is not None
        self._begin(trainer, pl_module, self.prepare)
        if not resumes:
            self.start(trainer, pl_module)
            self.start_stage(trainer, pl_module)
        wrap(pl_module, "training_step", self._training_step)

    def _begin(self, trainer: L.Trainer, module: L.LightningModule, prepare: Callable[..., None] | None = None) -> None:
        """Start all parts, and restore their states if the fit is resumed."""
        stages = (self.num_stages, self.warmup_stages, self.total_steps, self.patience_factor)
        self.clock.start(schedule_of(trainer, *stages))
        own = {"statistics": self.statistics, "curves": self._curves, "dynamics": self.dynamics}
        self._acting = {**self.parts, **own, "resume": self._resume_point}
        through = getattr(self.weighting, "attached", False)
        parts = self._acting.values()
        record = self.statistics.add
        demands = not self._only_watches
        self._step = WeightedStep(self._weights_of_stage, self.attached, through, record, parts, self._index, demands)
        for part in self._acting.values():
            part.start(trainer, module)
        if isinstance(self.weighting, BaseWeighting):
            self.weighting.start(trainer)
        if self._loaded is None and trainer.global_step > 0:
            raise MisconfigurationException(
                f"LAW cuts a whole training into stages, but this one is already at step {trainer.global_step}: "
                "start over, or resume from a checkpoint that was made with the callback."
            )
        if prepare is not None:
            prepare(trainer, module)
        self._began = True
        state, self._loaded = self._loaded, None
        if state is None:
            return
        with damage_as_misconfiguration(type(self).__name__):
            load_fit_state(trainer, type(self).__name__, self.clock, self._acting, self.weighting, state)
            self.load_extra_state(state)
        if self.history:
            _show(trainer, self.scalars(self.history[-1]))

    # -- steps -----------------------------------------------------------------------------------------------------

    def _before_module_hook(self, hook: str, *args: Any) -> None:
        for part in self._acting.values():
            part.before_module_hook(hook, *args)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Called before the module's own hook."""
        self._before_module_hook("on_train_epoch_start")

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Called before the module's own hook."""
        self.before_batch(trainer, pl_module)
        self._before_module_hook("on_train_batch_start", batch, batch_idx)

    def _training_step(self, module: L.LightningModule, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self not in module.trainer.callbacks:  # type: ignore[attr-defined]
            return original(*args, **kwargs)  # a tuner within the fit tries the module without its callbacks
        return self._step(module, original, *args, **kwargs)

    def _weights_of_stage(self, samples: Samples) -> Tensor | None:
        return None if self.clock.in_warmup else self.weights(samples)

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Refuse a module whose classification losses are not part of what it trains on."""
        self._step.check_use(pl_module)
        for part in self._acting.values():
            part.before_optimizer_step(optimizer)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """The parts act on the batch; the stage ends if its last step was taken."""
        for part in self._acting.values():
            part.after_batch(batch, batch_idx)
        if self.clock.is_due(trainer.global_step):
            self._end_stage(trainer, pl_module)
        self._resume_point.step_is_complete()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Called before the module's own hook."""
        self._before_module_hook("on_train_epoch_end")

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Not called for the sanity check."""
        if not trainer.sanity_checking:
            self._before_module_hook("on_validation_start")

    def _end_stage(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        clock, summary = self.clock, self.statistics.summary(trainer)
        self.statistics.warn_of_lost(clock.stage, summary)
        record: Record = {"stage": clock.stage, "step": trainer.global_step, "epoch": trainer.current_epoch, **summary}
        record |= self._curves.summary(trainer)
        if self._truth is not None:
            record |= weights_by_label(trainer, module, self._weights_of_stage, self.weighting, self._truth)
        phase = clock.next_phase(*self.measure(trainer, module, record))
        record |= dict(zip(("loss_smooth", "acc_smooth", "noise_smooth"), phase.numbers, strict=True))
        self.end_stage(trainer, module, record, phase)
        clock.advance(record, phase)
        scalars = self.scalars(record)
        for logger in trainer.loggers if scalars else ():  # one row a stage, whatever log_every_n_steps
            log_over("law/stage", logger, scalars, step=logged_step(trainer))
        _show(trainer, scalars)
        if not clock.is_over:
            self.start_stage(trainer, module)

    # -- afterwards ------------------------------------------------------------------------------------------------

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The last step was taken."""
        self._finish(trainer, pl_module)

    def _finish(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        warn_of_unreached(trainer, type(self).__name__, self.clock, self.patience_factor)
        self.finish(trainer, module)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A fit that resumes from the end of another has no step to take: it ends as that one would have."""
        if self._loaded is not None:
            finished = self._loaded["ended"]
            self._begin(trainer, pl_module)
            if not finished:
                self._finish(trainer, pl_module)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Leave the module as it was."""
        self._unwrap(pl_module)
        self._close()
        self._fitting, self._loaded = False, None

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Leave the module as it was; the parts keep their states, for a checkpoint that is written after this."""
        self._unwrap(pl_module)
        self._index.close()

    def _unwrap(self, module: L.LightningModule) -> None:
        for name in ("training_step", "configure_optimizers", "optimizer_step"):
            unwrap(module, name)

    def _close(self) -> None:
        for part in self._acting.values():
            part.close()
        self._index.close()
        self._truth = None

    # -- state -----------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the fit depends on, as tensors and plain Python; empty before it begins.

        A collective operation: every process must call this.
        """
        if not self._began:
            return {}
        return fit_state(self.clock, self._acting, self.weighting, self._fitting) | self.extra_state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state of a checkpoint until the fit that resumes from it begins.

        Raises:
            MisconfigurationException: it is of a later version, or damaged.
        """
        if self._fitting and not self._began and state_dict:  # a tuner within the fit restores its own checkpoint
            with damage_as_misconfiguration(type(self).__name__):
                self._loaded = upgraded(type(self).__name__, state_dict)


def _show(trainer: L.Trainer, scalars: dict[str, float]) -> None:
    """Let callbacks such as EarlyStopping monitor these numbers."""
    trainer.callback_metrics.update({name: torch.tensor(value) for name, value in scalars.items()})
