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
        features: names of the sample features, see :data:`law_lightning.functional.KNOWN_FEATURES`.
        renormalize: divide the weights by their mean, so that they do not change the learning rate as a whole.

    Attributes:
        theta: [F + 1], or None while every sample weighs 1 (the warm-up).
        margin_shift: added to the margins of each class, [C], so that a class that is learned late does not count as
            mislabelled: the mean margin of all samples less that of the class, in the stage before. None for zeros.
        class_ratio: factor on the weights of each class, [C]; None for ones.
    """

    def __init__(self, features: Sequence[str] = LF.FEATURES, renormalize: bool = False) -> None:
        self.features = tuple(features)
        self.renormalize = renormalize
        self.theta: Tensor | None = None
        self.margin_shift: Tensor | None = None
        self.class_ratio: Tensor | None = None

    def __call__(self, samples: Samples, phase: TrainingPhase) -> Tensor | None:
        """Weights [B], in (0, 2) unless renormalised."""
        if self.theta is None:
            return None
        device = samples.loss.device  # each is moved once a stage
        self.theta = self.theta.to(device)
        with torch.no_grad():
            features = LF.sample_features(samples.loss, samples.logits, samples.target, self.features, samples.valid)
            if self.margin_shift is not None:
                self.margin_shift = self.margin_shift.to(device)
                features[:, self.features.index("margin")] += _of_classes(self.margin_shift, samples.target)
            weights = LF.sample_weights(features, self.theta)
            if self.renormalize:
                weights = LF.renormalize_weights(weights, samples.valid)
            if self.class_ratio is not None:
                self.class_ratio = self.class_ratio.to(device)
                weights = weights * _of_classes(self.class_ratio, samples.target)
            return weights


def _of_classes(values: Tensor, target: Tensor) -> Tensor:
    """The entry of each sample's class, [B]; an ignored target may have any index."""
    return values[target.clamp(0, len(values) - 1)]
