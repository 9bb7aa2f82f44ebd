"""A ``training_step`` with weighted per-sample losses, in place of the module's own."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

from law_lightning.capture.first_step import warn_of_samples, warn_of_share, why_none
from law_lightning.capture.loss_capture import LossCapture, Weigh
from law_lightning.capture.losses import THREE_WAYS
from law_lightning.capture.part import Part
from law_lightning.capture.sample_index import SampleIndex
from law_lightning.capture.samples import Samples


class WeightedStep:
    """Runs the parts and the capture around a ``training_step``.

    Args:
        weigh: see :class:`LossCapture`.
        attached: likewise.
        differentiable: likewise.
        record: called at each step with each of its samples and their weights.
        parts: see :class:`Part`.
        index: which samples a batch holds.
        demands: whether a step must train on losses that are seen; if not, any dict that it returns is valid.
    """

    def __init__(
        self,
        weigh: Weigh,
        attached: bool,
        differentiable: bool,
        record: Callable[[Samples, Tensor | None], None],
        parts: Iterable[Part],
        index: SampleIndex,
        demands: bool,
    ) -> None:
        self._weigh, self._attached, self._differentiable = weigh, attached, differentiable
        self._record, self._parts, self._index = record, list(parts), index
        self._demands, self._found_samples, self._checked = demands, not demands, not demands
        self._running = self._leads_past = False
        self._used: list[Tensor] = []  # before the check: see ``on_use`` of the capture
        self._returned: list[Tensor] = []  # likewise, of what the step returned

    def __call__(self, module: L.LightningModule, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What ``original`` returns for these arguments, with its losses weighted (Equation 7).

        Raises:
            MisconfigurationException: the step reveals no per-sample loss.
        """
        for part in self._parts:
            part.before_step(args, kwargs)
        self._index.begin_step((*args, *kwargs.values()))
        with LossCapture(
            self._weigh,
            attached=self._attached,
            differentiable=self._differentiable,
            check_labels=not self._found_samples,
            on_use=None if self._checked else self._note_use,
            index=self._index.of,
        ) as capture:
            self._running = True
            output = original(*args, **kwargs)
        self._running = False
        try:
            output = capture.take_output(output)
        except MisconfigurationException:
            if self._demands:
                raise
        self._index.end_step()
        if not self._found_samples and output is not None:  # a step that returns None is skipped
            if not capture.samples:
                raise MisconfigurationException(
                    f"{_name(module)} reveals no per-sample loss, so LAW cannot weight it. "
                    f"{why_none(capture.left)}{THREE_WAYS}"
                )
            self._found_samples = True
            warn_of_samples(_name(module), capture.samples, (*args, *kwargs.values()))
        loss = output.get("loss") if isinstance(output, Mapping) else output
        if not self._checked and isinstance(loss, Tensor) and loss.requires_grad:
            loss.register_hook(functools.partial(self._note_returned, loss.detach()))
            self._leads_past = self._leads_past or capture.leads_past(loss)
        for samples, weights in capture.weighed:
            self._record(samples, weights)
        for part in self._parts:
            part.after_step(capture)
        return output

    def _note_use(self, contributions: Tensor) -> None:
        if not self._running:  # a step may differentiate by itself
            self._used.append(contributions)

    def _note_returned(self, loss: Tensor, gradient: Tensor) -> None:
        self._returned.append((loss * gradient).sum())

    def check_use(self, module: L.LightningModule) -> None:
        """Check, once the gradients of the first step are computed, that the losses took part in them, and how much.

        Raises:
            MisconfigurationException: the module does not train on the losses that its step computes.
        """
        if self._checked or not self._found_samples:
            return
        if not self._used:
            raise MisconfigurationException(
                f"{_name(module)} computes a classification loss, but what it returns does "
                f"not depend on it, so LAW would weight nothing. {THREE_WAYS}"
            )
        self._checked = True
        plain, weighted = torch.stack(self._used).sum(dim=0).tolist()
        rest = float(torch.stack(self._returned).sum()) - weighted
        self._used, self._returned = [], []
        whole = abs(plain) + abs(rest)
        if self._leads_past and abs(plain) < whole / 2 < math.inf:
            warn_of_share(_name(module), abs(plain) / whole)


def _name(module: L.LightningModule) -> str:
    return f"{type(module).__name__}.training_step"
