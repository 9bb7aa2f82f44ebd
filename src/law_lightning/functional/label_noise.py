"""Label noise, as held-out predictions show it, and the rule ``general`` that follows from it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

#: Of the rule: theta for the margin, the margin below which a weight falls under one, and where the gate opens.
SLOPE, THRESHOLD = 4.0, -0.2
GATE_FROM, GATE_WIDTH = 0.5, 0.15


def confident_error(confidence: Tensor, accuracy: Tensor, share: float = 1 / 3) -> float:
    r"""How often the most confident predictions are wrong, relative to all predictions.

    .. math:: \rho = \frac{\text{error rate of the most confident third}}{\text{error rate of all}}

    A network that has learned something errs where it is unsure, so :math:`\rho` is near 0 on clean labels however
    hard the data are. A wrong label contradicts a confident prediction as often as an unsure one: with label noise
    :math:`\rho` goes towards 1. The predictions must be on samples that the network has not been trained on; their
    labels may be as noisy as those of the training.

    Args:
        confidence: largest predicted probability of each sample, [N]; NaN counts as 0.
        accuracy: how much of each prediction is right, [N] in [0, 1].
        share: of the predictions that count as confident, in (0, 1].

    Returns:
        At least 0; 0 where nothing is wrong, or nothing was predicted.

    Example:
        >>> confident_error(torch.tensor([0.9, 0.8, 0.5, 0.5, 0.4, 0.3]), torch.tensor([1.0, 0.0, 1.0, 1.0, 1.0, 0.0]))
        1.5
    """
    error = 1.0 - accuracy.double()
    if not error.sum() > 0:
        return 0.0
    most = confidence.nan_to_num(0.0).argsort(descending=True, stable=True)[: max(1, round(share * len(error)))]
    return float(error[most].mean() / error.mean())


def general_theta(noise: Tensor, features: Sequence[str] = ("margin",)) -> Tensor:
    r"""The rule ``general``: theta for the margin m of a sample, and b.

    .. math:: K = 1 + \tanh(4 g (m + 0.2)), \qquad g = \mathrm{clip}((\rho - 0.5) / 0.15, 0, 1)

    Args:
        noise: smoothed :math:`\rho`, [...].
        features: the sample features that theta weighs; those other than the margin get zeros.

    Returns:
        [..., F + 1].

    Example:
        >>> general_theta(torch.tensor([0.3, 0.575, 0.9]))
        tensor([[0.0000, 0.0000],
                [2.0000, 0.4000],
                [4.0000, 0.8000]])
    """
    slope = SLOPE * ((noise - GATE_FROM) / GATE_WIDTH).clamp(0.0, 1.0)
    weights = [slope if name == "margin" else torch.zeros_like(slope) for name in features]
    return torch.stack([*weights, -THRESHOLD * slope], dim=-1)


def class_ratio(wanted: Tensor, given: Tensor) -> Tensor:
    r"""Weights of classes that let training data count as if their classes were as frequent as in other data.

    .. math:: r_c = \frac{q_c}{\mathrm{mean}_k \, q_k}, \qquad q_c = \min\left(\frac{n'_c + 1}{n_c + 1}, \;
        10 \, \mathrm{median}_k \frac{n'_k + 1}{n_k + 1}\right)

    Mean and median are over the classes that the training data have; of an even number of classes the median is the
    lower of the two in the middle, as torch's is. Weights with a mean of one over the classes are those of Cui et al.
    (CVPR 2019): with a mean of one over the samples a rare class would weigh so much that training by SGD can diverge.

    Args:
        wanted: number of samples of each class in the other data, n', [C].
        given: number in the training data, n, [C].

    Returns:
        [C] in float32; near one where both have the same shares. The added one keeps classes that are absent in a
        small sample from weighing nothing.
    """
    quotient, seen = (wanted.double() + 1) / (given.double() + 1), given > 0
    if not seen.any():
        return torch.ones(len(given))
    quotient = quotient.clamp(max=10 * quotient[seen].median())
    return (quotient / quotient[seen].mean()).float()


def is_worse(accuracy: Tensor, other: Tensor) -> bool:
    """Whether one network is less accurate than another on the same samples, by more than two standard errors.

    Of 18 independent comparisons of networks that are equally good, as many as a training has by default, at least one
    exceeds two standard errors in 34 % of the trainings, and one standard error in 96 %.

    Args:
        accuracy: how much of each sample it gets right, [N] in [0, 1].
        other: the same of the other network.

    Example:
        >>> is_worse(torch.tensor([0.0, 1.0, 0.0]), torch.tensor([1.0, 1.0, 1.0]))
        True
    """
    difference = accuracy.double() - other.double()
    return bool(difference.mean() < -2 * difference.std(correction=0) / len(difference) ** 0.5)
