"""What a weighting is: a function from samples to weights, or an object that keeps a state as well."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import lightning as L
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

from law_lightning.capture.samples import Samples
from law_lightning.stages.schedule import TrainingPhase


def unweighted(samples: Samples, phase: TrainingPhase) -> None:
    """Weights of one."""


class BaseWeighting:
    """A weighting that needs the Trainer when a fit begins, or keeps a state from batch to batch.

    Attributes:
        attached: whether the samples come with their graph and gradients flow through the weights, too.
    """

    attached: ClassVar[bool] = False

    def start(self, trainer: L.Trainer) -> None:
        """Called when a fit begins, also one that is resumed: reset the state of an earlier fit."""

    def state_dict(self) -> dict[str, Any]:
        """What the next weights depend on: tensors and plain Python."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state returned by :meth:`state_dict`."""

    def __call__(self, samples: Samples, phase: TrainingPhase) -> Tensor | None:
        """Weights [B] of a batch; None for weights of one."""
        raise NotImplementedError


Weighting = BaseWeighting | Callable[[Samples, TrainingPhase], Any]
"""From the samples of a step, detached, and the training phase to weights [B] around 1, constants; None for ones.

The class by itself lets LightningCLI build a weighting of this package, the second kind takes any function.
"""


def checked_weights(weighting: Weighting, samples: Samples, phase: TrainingPhase) -> Tensor | None:
    """The weights of ``weighting``, constants unless it is attached; an error names it if they are not [B]."""
    weights = weighting(samples, phase)
    if weights is None:
        return None
    if weights.shape != samples.loss.shape:
        raise MisconfigurationException(
            f"The weighting {weighting!r} returned weights of shape {list(weights.shape)} for {len(samples)} samples; "
            f"it must return [{len(samples)}], one weight for each."
        )
    return weights if getattr(weighting, "attached", False) else weights.detach()
