"""What the data modules share: the check of sizes, splitting and standardising."""

from __future__ import annotations

import torch
from torch import Tensor


def check_at_least(least: int, **settings: int | None) -> None:
    """Check settings that are whole numbers; None stands for no limit and passes."""
    for name, value in settings.items():
        if value is not None and value < least:
            raise ValueError(f"{name} is {value}, but it must be at least {least}.")


def permuted_indices(num_samples: int, seed: int) -> Tensor:
    """Return a permutation of the samples, int64 [N], that depends on nothing but its arguments."""
    return torch.randperm(num_samples, generator=torch.Generator().manual_seed(seed))


def cut(order: Tensor, train_size: int | None, val_size: int, what: str) -> tuple[Tensor, Tensor]:
    """Return the ``train_size`` samples after the first ``val_size`` of an order, int64 [N], and those first ones.

    The validation samples come first in the order, so that they stay the same when ``train_size`` changes; None takes
    all the rest. ``what`` begins the error's message, for instance "CIFAR-10 has 200 images".
    """
    rest = len(order) - val_size
    if rest < (train_size or 1):
        raise ValueError(
            f"{what}, too few for {val_size} validation and {train_size or 'at least one'} training samples: lower "
            "train_size or val_size."
        )
    return order[val_size:][:train_size], order[:val_size]


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
    # In pieces: float32 sums over a large data set lose digits, and a copy of it in double may not fit in memory.
    pieces = train_x.split(4096)
    total = torch.stack([piece.double().sum(over, keepdim=True) for piece in pieces]).sum(0)
    count = train_x.numel() // total.numel()
    mean = total / count
    variance = torch.stack([(piece - mean).square().sum(over, keepdim=True) for piece in pieces]).sum(0) / count
    # Because of rounding, the deviation of a constant channel need not be exactly 0.
    constant = variance <= (1e-12 * mean).square()
    scale = torch.where(constant, torch.ones_like(variance), variance.sqrt()).float()
    mean = mean.float()
    return tuple((x.float() - mean).div_(scale) for x in (train_x, *others))
