"""Focal loss (Lin et al., ICCV 2017, arXiv 1708.02002) as a weighting."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

from law_lightning.capture.samples import Samples
from law_lightning.stages.schedule import TrainingPhase
from law_lightning.weighting.base import BaseWeighting


def focal_factor(logits: Tensor, target: Tensor, gamma: float) -> Tensor:
    r"""The modulating factor of the focal loss (its Equation 4).

    .. math:: (1 - p_t)^\gamma

    where :math:`p_t` is the probability that the network gives to the label.

    Args:
        logits: scores, [B, C].
        target: class indices, [B].
        gamma: the exponent, at least 0; the larger it is, the smaller the factor of confidently classified samples.

    Returns:
        The factors, [B] in [0, 1], with their graph.
    """
    log_p = logits.log_softmax(dim=1).gather(1, target.unsqueeze(1)).squeeze(1)
    doubt = -torch.expm1(log_p)  # 1 - p_t
    # Below an exponent of 1 the slope at p_t = 1 is infinite: there the factor is treated as a constant.
    return doubt.clamp_min(torch.finfo(doubt.dtype).tiny) ** gamma


class FocalWeighting(BaseWeighting):
    """``WeightingCallback(FocalWeighting(gamma=2.0))``: the module's cross-entropy becomes a focal loss.

    Gradients flow through the factor, as in the paper. A loss with class weights or label smoothing keeps them.

    Args:
        gamma: the exponent; 0 leaves the loss as it is, 2 is the paper's choice.
        alpha: a constant factor for each class, [C]; for a binary loss ``(1 - alpha, alpha)`` in the paper's
            notation. None for ones.

    Raises:
        ValueError: ``gamma`` is below 0 or not finite, or a factor of ``alpha`` is.
    """

    attached: ClassVar[bool] = True

    def __init__(self, gamma: float = 2.0, alpha: Sequence[float] | None = None) -> None:
        if not 0 <= gamma < math.inf:
            raise ValueError(f"gamma must be at least 0 and finite, not {gamma}.")
        if alpha is not None and not (len(alpha) and all(0 <= a < math.inf for a in alpha)):
            raise ValueError(f"alpha must hold a factor of at least 0 for each class, not {list(alpha)}.")
        self.gamma = gamma
        self.alpha = None if alpha is None else torch.tensor([float(a) for a in alpha])

    def __call__(self, samples: Samples, phase: TrainingPhase) -> Tensor:
        """Weights [B] with their graph.

        Raises:
            MisconfigurationException: the samples have more than one label each, or ``alpha`` has another number of
                classes.
        """
        if not samples.one_label:
            raise MisconfigurationException(
                "FocalWeighting gives a sample one factor, by the probability of its one label, but here a sample has "
                "several labels, many positions, or a label spread over classes. Use torchvision.ops."
                "sigmoid_focal_loss in the module, or (for label smoothing) cross_entropy(label_smoothing=...)."
            )
        weights = focal_factor(samples.logits, samples.target, self.gamma)
        if self.alpha is None:
            return weights
        if len(self.alpha) != samples.num_classes:
            raise MisconfigurationException(
                f"FocalWeighting's alpha has {len(self.alpha)} entries, but the network has {samples.num_classes} "
                "classes: give one for each."
            )
        return weights * self.alpha.to(weights.device)[samples.target]
