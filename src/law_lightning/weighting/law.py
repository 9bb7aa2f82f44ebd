"""LAW's weighting: K(f, theta) = 1 + tanh(theta . f + b) (Equation 3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from law_lightning import functional as LF
from law_lightning.capture.samples import Samples
from law_lightning.stages.schedule import TrainingPhase


class LAWWeighting:
    """Weights samples by their features with the theta of the current stage.

    Args:
        features: names of the sample features, see :data:`law_lightning.functional.FEATURES`.
        renormalize: divide the weights by their mean, so that they do not change the learning rate as a whole.

    Attributes:
        theta: [F + 1], or None while every sample weighs 1 (the warm-up).
    """

    def __init__(self, features: Sequence[str] = LF.FEATURES, renormalize: bool = False) -> None:
        self.features = tuple(features)
        self.renormalize = renormalize
        self.theta: Tensor | None = None

    def __call__(self, samples: Samples, phase: TrainingPhase) -> Tensor | None:
        """Weights [B], in (0, 2) unless renormalised."""
        if self.theta is None:
            return None
        self.theta = self.theta.to(samples.loss.device)
        with torch.no_grad():
            features = LF.sample_features(samples.loss, samples.logits, samples.target, self.features, samples.valid)
            weights = LF.sample_weights(features, self.theta)
            return LF.renormalize_weights(weights, samples.valid) if self.renormalize else weights
