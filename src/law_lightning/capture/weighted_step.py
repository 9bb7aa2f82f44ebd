"""A ``training_step`` with weighted per-sample losses, in place of the module's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import lightning as L
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

from law_lightning.capture.loss_capture import LossCapture, Weigh
from law_lightning.capture.losses import THREE_WAYS
from law_lightning.capture.part import Part
from law_lightning.capture.samples import Samples


class WeightedStep:
    """Runs the parts and the capture around a ``training_step``.

    Args:
        weigh: see :class:`LossCapture`.
        attached: likewise.
        differentiable: likewise.
        record: called at each step with each of its samples and their weights.
        parts: see :class:`Part`.
    """

    def __init__(
        self,
        weigh: Weigh,
        attached: bool,
        differentiable: bool,
        record: Callable[[Samples, Tensor | None], None],
        parts: Iterable[Part],
    ) -> None:
        self._weigh, self._attached, self._differentiable = weigh, attached, differentiable
        self._record, self._parts = record, list(parts)
        self._found_samples = self._loss_is_used = False

    def __call__(self, module: L.LightningModule, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What ``original`` returns for these arguments, with its losses weighted (Equation 7).

        Raises:
            MisconfigurationException: the step reveals no per-sample loss.
        """
        for part in self._parts:
            part.before_step(args, kwargs)
        with LossCapture(
            self._weigh,
            attached=self._attached,
            differentiable=self._differentiable,
            check_labels=not self._found_samples,
            on_use=None if self._loss_is_used else self._note_use,
        ) as capture:
            output = original(*args, **kwargs)
        output = capture.take_output(output)
        if not capture.samples and not self._found_samples and output is not None:
            raise MisconfigurationException(
                f"{type(module).__name__}.training_step reveals no per-sample loss, so LAW cannot weight it. "
                f"{THREE_WAYS}"
            )
        # A step that returns None is skipped: it does not tell whether its losses are used.
        self._found_samples = self._found_samples or (bool(capture.samples) and output is not None)
        for samples, weights in capture.weighed:
            self._record(samples, weights)
        for part in self._parts:
            part.after_step(capture)
        return output

    def _note_use(self, gradient: Tensor) -> None:
        self._loss_is_used = True

    def check_use(self, module: L.LightningModule) -> None:
        """Check, once the gradients are computed, that the losses took part in them.

        Raises:
            MisconfigurationException: the module does not train on the losses that its step computes.
        """
        if self._found_samples and not self._loss_is_used:
            raise MisconfigurationException(
                f"{type(module).__name__}.training_step computes a classification loss, but what it returns does "
                f"not depend on it, so LAW would weight nothing. {THREE_WAYS}"
            )
