"""Splitting and standardising: what every data module does to its arrays."""

from __future__ import annotations

import torch
from torch import Tensor


def permuted_indices(num_samples: int, seed: int) -> Tensor:
    """Return a permutation of the samples, int64 [N], that depends on nothing but its arguments."""
    return torch.randperm(num_samples, generator=torch.Generator().manual_seed(seed))


def standardize(train_x: Tensor, *others: Tensor, per_feature: bool = False) -> tuple[Tensor, ...]:
    """Subtract the mean and divide by the standard deviation, both of the training inputs.

    Args:
        train_x: Training inputs, float [N, C, H, W] or [N, D].
        *others: Further inputs of the same sample shape: validation, test.
        per_feature: For inputs [N, D]: statistics of each feature, not of all together. Images always
            have statistics of each channel.

    Returns:
        All the inputs, float32, in the order given. A constant channel is only centred.
    """
    over = [0, 2, 3] if train_x.ndim == 4 else [0] if per_feature else [0, 1]
    mean = _mean(train_x, over)
    variance = _mean(train_x, over, around=mean)
    # Against rounding: the deviation of a channel of equal values need not come out as exactly 0.
    constant = variance <= (1e-12 * mean).square()
    scale = torch.where(constant, torch.ones_like(variance), variance.sqrt()).float()
    mean = mean.float()
    return tuple((x.float() - mean).div_(scale) for x in (train_x, *others))


def _mean(x: Tensor, over: list[int], around: Tensor | None = None) -> Tensor:
    """Mean of ``x``, or of its squared distance to ``around``, in double precision.

    Float32 sums over a large data set lose digits; a double copy of it may not fit. So: in pieces.
    """
    total, count = torch.zeros((), dtype=torch.float64), 0
    for piece in torch.split(x, 4096):
        exact = piece.double() if around is None else (piece.double() - around).square()
        part = exact.sum(over, keepdim=True)
        total = total + part
        count += exact.numel() // part.numel()
    return total / count
