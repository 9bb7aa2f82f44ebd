"""Any weighting on anyone's module."""

from __future__ import annotations

import functools
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

from law_lightning.callbacks.checks import restore
from law_lightning.callbacks.labels import truth_loader, weights_by_label
from law_lightning.callbacks.staged import Record, StagedCallback
from law_lightning.capture.loss_capture import TWO_WAYS, LossCapture, Weigh
from law_lightning.capture.samples import Samples
from law_lightning.second_network.duplicate import WRAPPED
from law_lightning.weighting.base import BaseWeighting, Weighting, checked_weights, is_attached


class WeightingCallback(StagedCallback):
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
        super().__init__(num_stages, warmup_stages, smoothing)
        self.weighting = weighting
        self.analyse_labels = analyse_labels
        self._found_samples = False
        self._loss_is_used = False
        self._truth: Any = None

    # -- what a subclass adds ------------------------------------------------------------------------------

    @property
    def attached(self) -> bool:
        """Whether samples come with their graph, so that gradients may flow through the weights."""
        return is_attached(self.weighting)

    def capture(self, weigh: Weigh, **options: Any) -> LossCapture:
        """What looks on at a ``training_step``; takes the arguments of :class:`LossCapture`."""
        return LossCapture(weigh, **options)

    def before_step(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Called with the arguments of every ``training_step``, before it."""

    def after_step(self, capture: LossCapture) -> None:
        """Called with what a ``training_step`` revealed, after it."""

    def scalars(self, record: Record) -> dict[str, float]:
        """A record's numbers under their log keys."""
        names = ("mean", "std", "min", "max", "clean", "wrong")
        scalars = {f"law/weight/{name}": record.get(f"weight_{name}") for name in names}
        return {name: value for name, value in scalars.items() if value is not None}

    # -- before training -----------------------------------------------------------------------------------

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse what cannot work, before anything runs."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            refuse_second_weighting(trainer)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Cut the run into stages and begin to weight."""
        self._truth = truth_loader(trainer) if self.analyse_labels else None
        self._found_samples = self._loss_is_used = False
        if isinstance(self.weighting, BaseWeighting):
            self.weighting.start(trainer)
        super().on_train_start(trainer, pl_module)
        self._wrap(pl_module)

    # -- steps ---------------------------------------------------------------------------------------------

    def _wrap(self, module: L.LightningModule) -> None:
        original, attached = module.training_step, self.attached

        @functools.wraps(original)
        def training_step(*args: Any, **kwargs: Any) -> Any:
            if self not in module.trainer.callbacks:  # type: ignore[attr-defined]
                return original(*args, **kwargs)  # a tuner tries the module out meanwhile
            self._step_begun = module.trainer.global_step
            self.before_step(args, kwargs)
            on_use = None if self._loss_is_used else self._note_use
            check = not self._found_samples
            with self.capture(self._weigh, attached=attached, check_labels=check, on_use=on_use) as capture:
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

    def analyse(self, trainer: L.Trainer, module: L.LightningModule) -> Record:
        """The mean weights of right and of wrong labels, if they are asked for."""
        if self._truth is None:
            return {}
        if not isinstance(self.weighting, BaseWeighting):
            return weights_by_label(trainer, module, self._weights, self._truth)
        before = self.weighting.state_dict()  # what it would remember of these samples is not of the training
        found = weights_by_label(trainer, module, self._weights, self._truth)
        self.weighting.load_state_dict(before)
        return found

    # -- afterwards ----------------------------------------------------------------------------------------

    def restore(self, module: L.LightningModule) -> None:
        """Leave the user's module as it was, whether the fit ended or failed."""
        super().restore(module)
        restore(module, "training_step")

    def release(self) -> None:
        """Let go of what only the fit needed."""
        super().release()
        self._truth = None

    # -- state ---------------------------------------------------------------------------------------------

    def process_state(self) -> dict[str, Any]:
        """What each process has for itself: tensors and plain Python."""
        state = super().process_state()
        return (
            state | {"weighting": self.weighting.state_dict()} if isinstance(self.weighting, BaseWeighting) else state
        )

    def load_process_state(self, trainer: L.Trainer, own: dict[str, Any]) -> None:
        """Go on where :meth:`process_state` was taken on this process."""
        super().load_process_state(trainer, own)
        if isinstance(self.weighting, BaseWeighting):
            self.weighting.load_state_dict(own["weighting"])


def refuse_second_weighting(trainer: L.Trainer) -> None:
    """Raise a MisconfigurationException where two callbacks would weight the same losses."""
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    names = [type(each).__name__ for each in callbacks if isinstance(each, WeightingCallback)]
    if len(names) > 1:
        raise MisconfigurationException(
            f"The Trainer has {len(names)} callbacks that weight samples ({', '.join(names)}), which would weight each "
            "other's weighted losses: give it one. A weighting may itself call others and multiply what they return."
        )
