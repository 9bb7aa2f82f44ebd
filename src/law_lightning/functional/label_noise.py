"""Label noise, as held-out predictions show it, and the rule ``general`` that follows from it."""

from __future__ import annotations

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
        confidence: largest predicted probability of each sample, [N].
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
    most = confidence.argsort(descending=True, stable=True)[: max(1, round(share * len(error)))]
    return float(error[most].mean() / error.mean())


def noise_gate(noise: Tensor) -> Tensor:
    """How far the rule ``general`` is applied, 0 to 1, for a smoothed :func:`confident_error` of any shape."""
    return ((noise - GATE_FROM) / GATE_WIDTH).clamp(0.0, 1.0)


def general_theta(noise: Tensor) -> Tensor:
    r"""The rule ``general``: theta for the margin m of a sample, and b.

    .. math:: K = 1 + \tanh(4 g (m + 0.2)), \qquad g = \mathrm{clip}((\rho - 0.5) / 0.15, 0, 1)

    Args:
        noise: smoothed :math:`\rho`, [...].

    Returns:
        [..., 2].

    Example:
        >>> general_theta(torch.tensor([0.3, 0.575, 0.9]))
        tensor([[0.0000, 0.0000],
                [2.0000, 0.4000],
                [4.0000, 0.8000]])
    """
    slope = SLOPE * noise_gate(noise)
    return torch.stack([slope, -THRESHOLD * slope], dim=-1)


def class_ratio(wanted: Tensor, given: Tensor) -> Tensor:
    r"""Weights of classes that let training data count as if their classes were as frequent as in other data.

    .. math:: r_c = \frac{(n'_c + 1) / \sum_k (n'_k + 1)}{(n_c + 1) / \sum_k (n_k + 1)}

    Args:
        wanted: number of samples of each class in the other data, n', [C].
        given: number in the training data, n, [C].

    Returns:
        [C] in float32; near one where both have the same shares. The added one keeps classes that are absent in a
        small sample from weighing nothing.
    """
    shares = [(count.double() + 1) / (count.double() + 1).sum() for count in (wanted, given)]
    return (shares[0] / shares[1]).float()
