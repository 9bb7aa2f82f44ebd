"""The seam: anything that gives weights to samples."""

from __future__ import annotations

from typing import Protocol

from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

from law_lightning.samples import Samples
from law_lightning.stages import TrainingPhase


class Weighting(Protocol):
    """A function from samples to weights; it may hold state, as a class."""

    def __call__(self, samples: Samples, phase: TrainingPhase) -> Tensor | None:
        """Weigh a batch.

        Args:
            samples: what the step revealed, detached.
            phase: where the training is.

        Returns:
            Weights [B] around 1, treated as constants; None for weights of one.
        """
        ...


def checked_weights(weighting: Weighting, samples: Samples, phase: TrainingPhase) -> Tensor | None:
    """The weights that ``weighting`` gives, checked for their shape.

    Raises:
        MisconfigurationException: they are not [B].
    """
    weights = weighting(samples, phase)
    if weights is not None and weights.shape != samples.loss.shape:
        raise MisconfigurationException(
            f"The weighting {weighting!r} returned weights of shape {list(weights.shape)} for {len(samples)} samples; "
            f"it must return [{len(samples)}], one weight for each."
        )
    return None if weights is None else weights.detach()
