"""What the Trainer of an episode can do without.

A search trains hundreds of small networks, where Lightning's own bookkeeping takes half of a step. This spares the part
of it that no one can see; every hook, every log key and every number stays.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import lightning as L
import torch
from lightning.pytorch.profilers import PassThroughProfiler

from law_lightning._compat import ResultCollection, ResultMetric, log_into

_NOTHING: AbstractContextManager[Any] = nullcontext()


class NoProfiler(PassThroughProfiler):
    """The Trainer's own default, without a generator for each of some forty hooks a step."""

    def profile(self, action_name: str) -> AbstractContextManager[Any]:  # type: ignore[override]
        """Measure nothing."""
        return _NOTHING


class _StayingMetric(ResultMetric):
    """A logged number that is moved to its device once, not at every ``log``, where nothing is left to move."""

    _device_moved_to: torch.device | None = None

    def to(self, *args: Any, **kwargs: Any) -> _StayingMetric:
        """Move it, unless it is there."""
        (device, *others) = args or (None,)
        if self.is_tensor and isinstance(device, torch.device) and not others and not kwargs:
            if device != self._device_moved_to:
                super().to(device)
                self._device_moved_to = device
            return self
        self._device_moved_to = None
        super().to(*args, **kwargs)
        return self


class _Results(ResultCollection):
    def __setitem__(self, key: str, metric: ResultMetric) -> None:
        super().__setitem__(key, _StayingMetric(metric.meta, metric.is_tensor))


def lean(trainer: L.Trainer) -> L.Trainer:
    """Let a new Trainer log at less cost."""
    log_into(trainer, _Results(training=True))
    return trainer
