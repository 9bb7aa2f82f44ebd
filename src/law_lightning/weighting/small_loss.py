"""The small-loss selection of Co-teaching (Han et al., NeurIPS 2018, arXiv:1804.06872), as pure functions."""

from __future__ import annotations

import torch
from torch import Tensor


def forget_rate_at(epoch: int, forget_rate: float, gradual_epochs: int = 10, exponent: float = 1.0) -> float:
    r"""The share of a batch that is left out in an epoch.

    .. math:: 1 - R(T) = \begin{cases} \tau^c \, T / (T_k - 1) & T < T_k \\ \tau & T \ge T_k \end{cases}

    as in the authors' code; the paper writes :math:`\tau \min(T / T_k, 1)` for c = 1, with T from 1.

    Args:
        epoch: T, from 0.
        forget_rate: tau, in [0, 1).
        gradual_epochs: T_k, at least 1: the epochs in which the share grows.
        exponent: c, above 0.

    Example:
        >>> [forget_rate_at(epoch, 0.5, gradual_epochs=3) for epoch in range(5)]
        [0.0, 0.25, 0.5, 0.5, 0.5]
    """
    return forget_rate if epoch >= gradual_epochs else forget_rate**exponent * epoch / max(gradual_epochs - 1, 1)


def small_loss_weights(loss: Tensor, forget: float, valid: Tensor | None = None) -> Tensor:
    r"""Weights under which the mean over a batch is the mean over its samples of smallest loss.

    .. math:: K_i = \begin{cases} n / k & i \text{ among the } k \text{ smallest losses} \\ 0 & \text{otherwise}
        \end{cases}, \qquad k = \max(1, \lfloor (1 - \text{forget}) \, n \rfloor)

    so that :math:`\frac{1}{n} \sum_i K_i L_i` is the mean of the chosen :math:`L_i`; n counts the samples that have a
    target. Of equal losses the earlier sample is chosen; a loss that is not a number counts as the largest.

    Args:
        loss: per-sample losses by which to choose, [B].
        forget: the share that is left out, in [0, 1).
        valid: False for samples without a target, which are never chosen, [B].

    Returns:
        The weights, [B].

    Example:
        >>> small_loss_weights(torch.tensor([3.0, 1.0, 2.0, 4.0]), forget=0.5)
        tensor([0., 2., 2., 0.])
    """
    order = loss.argsort(stable=True)  # torch sorts NaN last
    weights = torch.zeros_like(loss)
    if valid is None:
        chosen = order[: max(int((1 - forget) * len(loss)), 1)]
        weights[chosen] = len(loss) / len(chosen)
        return weights
    order = order[(~valid)[order].int().argsort(stable=True)]  # those without a target last
    count = valid.sum().double()  # stays on the device: reading it would wait
    kept = ((1 - forget) * count).floor().clamp_min(1)
    first = torch.arange(len(loss), device=loss.device) < kept
    weights[order] = torch.where(first, count / kept, 0.0).to(loss.dtype)
    return weights
