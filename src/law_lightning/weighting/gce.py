"""Generalized cross-entropy (Zhang and Sabuncu, NeurIPS 2018, arXiv 1805.07836) as a weighting."""

from __future__ import annotations

from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

from law_lightning.capture.samples import Samples
from law_lightning.stages.schedule import TrainingPhase
from law_lightning.weighting.base import BaseWeighting


def gce_weights(logits: Tensor, target: Tensor, q: float) -> Tensor:
    r"""The weights of the cross-entropy whose gradient is that of the generalized cross-entropy.

    .. math:: L_q = \frac{1 - p_t^q}{q}, \qquad \nabla L_q = p_t^q \, \nabla (-\log p_t)

    where :math:`p_t` is the probability that the network gives to the label.

    Args:
        logits: scores, [B, C].
        target: class indices, [B].
        q: the exponent, in [0, 1]: 0 is the cross-entropy, 1 the mean absolute error.

    Returns:
        The weights, [B] in [0, 1].
    """
    log_p = logits.log_softmax(dim=1).gather(1, target.unsqueeze(1)).squeeze(1)
    return (q * log_p).exp()


class GCEWeighting(BaseWeighting):
    """``WeightingCallback(GCEWeighting(q=0.7))``: the module's cross-entropy trains as a generalized one.

    The weights are constants in the gradient, which makes it exactly that of the published loss; the value of the
    weighted loss is not the published one. A loss with class weights keeps them.

    Args:
        q: the exponent; 0 leaves the loss as it is, 0.7 is the paper's choice.

    Raises:
        ValueError: ``q`` is not in [0, 1].
    """

    def __init__(self, q: float = 0.7) -> None:
        if not 0 <= q <= 1:
            raise ValueError(f"q must lie in [0, 1], not be {q}.")
        self.q = q

    def __call__(self, samples: Samples, phase: TrainingPhase) -> Tensor:
        """Weights [B].

        Raises:
            MisconfigurationException: the samples have more than one label each.
        """
        if not samples.one_label:
            raise MisconfigurationException(
                "GCEWeighting weighs a sample by the probability of its one label, but here a sample has "
                "several labels, many positions, or a label spread over classes."
            )
        return gce_weights(samples.logits, samples.target, self.q)
