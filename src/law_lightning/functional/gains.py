"""How far a mean gain may be from the true one."""

from __future__ import annotations

import torch
from torch import Tensor

#: Draws of the bootstrap, enough for the tails of a 99 % interval.
_DRAWS = 5_000


def gain_interval(gains: Tensor, confidence: float = 0.95) -> tuple[float, float, float]:
    """Mean of the gains of S networks on the same N samples, with its interval over both.

    The bootstrap draws networks and samples independently, with replacement (Owen, "The pigeonhole bootstrap", 2007).
    An interval over the networks alone would leave out that all were tested on the same samples.

    Args:
        gains: What each network gains on each sample, [S, N].
        confidence: Coverage of the interval, in (0, 1).

    Returns:
        The mean, and the lower and the upper end of the interval.
    """
    networks, samples = gains.shape
    generator = torch.Generator().manual_seed(0)
    means = torch.empty(_DRAWS, dtype=torch.float64)
    for draw in range(_DRAWS):
        of_samples = gains[torch.randint(networks, (networks,), generator=generator)].double().mean(0)
        means[draw] = of_samples[torch.randint(samples, (samples,), generator=generator)].mean()
    tail = (1 - confidence) / 2
    low, high = means.quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return float(gains.double().mean()), low, high
