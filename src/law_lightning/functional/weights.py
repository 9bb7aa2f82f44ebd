"""The weights K of samples, and the loss that they give (Equations 3 and 7)."""

from __future__ import annotations

import torch
from torch import Tensor


def sample_weights(features: Tensor, theta: Tensor) -> Tensor:
    r"""The weighting function (Equation 3).

    .. math:: K(f, \theta) = 1 + \tanh(\theta_{1..F} \cdot f + b), \qquad b = \theta_{F+1}

    Args:
        features: normalised sample features f, [B, F].
        theta: the action, [F + 1]: one weight per feature, then b.

    Returns:
        [B], each in (0, 2); exactly 1 for theta = 0.

    Raises:
        ValueError: theta is not [F + 1].

    Example:
        >>> sample_weights(torch.tensor([[0.5], [-0.5]]), torch.tensor([0.0, 0.0]))
        tensor([1., 1.])
    """
    if theta.shape != (features.shape[1] + 1,):
        raise ValueError(
            f"theta must have shape [{features.shape[1] + 1}] (one weight for each of the {features.shape[1]} "
            f"features, then b), not {list(theta.shape)}."
        )
    # A product and a sum, not a matrix product: autocast and TF32 would round the latter.
    return 1.0 + torch.tanh((features * theta[:-1]).sum(dim=1) + theta[-1])


def renormalize_weights(weights: Tensor, valid: Tensor | None = None) -> Tensor:
    r"""Weights with a mean of one: :math:`K_i / \bar K` (docs/paper.md, choice 11; not in the paper).

    Args:
        weights: K, [B], at least 0.
        valid: [B] of bool; a sample that is False here is left out of the mean.

    Returns:
        [B]; as given where the mean is 0 (all weights are) or no sample is valid.

    Example:
        >>> renormalize_weights(torch.tensor([0.5, 1.5, 1.0, 1.0]) / 2)
        tensor([0.5000, 1.5000, 1.0000, 1.0000])
    """
    mean = weights.mean() if valid is None else (weights * valid).sum() / valid.sum()
    return torch.where(mean > 0, weights / mean, weights)


def weighted_loss(loss: Tensor, weights: Tensor) -> Tensor:
    r"""The target's loss (Equation 7): the mean of :math:`K \times L`.

    Args:
        loss: per-sample losses L, [B].
        weights: K, [B], treated as constants.

    Returns:
        A scalar.
    """
    return (weights.detach() * loss).mean()
