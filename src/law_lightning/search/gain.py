"""What a search announces: how much its strategy gains on fresh seeds, and whether that is more than chance."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from law_lightning.functional import gain_interval


@dataclass(frozen=True)
class Gain:
    """Gain in validation accuracy over plain training, of networks from seeds that the search has not seen.

    The strategy was chosen among several on the same validation samples, so the interval is as wide as makes all of
    their intervals together hold with 95 % (Bonferroni).

    Attributes:
        mean: over the networks, in [-1, 1].
        low: lower end of its interval.
        high: upper end.
        seeds: networks trained with the strategy, and as many plain ones.
        samples: validation samples.
        candidates: evaluated strategies of which this one was the best.
    """

    mean: float
    low: float
    high: float
    seeds: int
    samples: int
    candidates: int

    @classmethod
    def of(cls, gains: Tensor, candidates: int) -> Gain:
        """From what each network gains on each validation sample, [S, N]."""
        seeds, samples = gains.shape
        return cls(*gain_interval(gains, 1 - 0.05 / candidates), seeds, samples, candidates)

    @property
    def beyond_chance(self) -> bool:
        """Whether the interval lies above zero."""
        return self.low > 0

    def __str__(self) -> str:
        mean, low, high = (f"{100 * end:+.2f}" for end in (self.mean, self.low, self.high))
        text = (
            f"{mean} points of validation accuracy over plain training, 95% interval [{low}, {high}] "
            f"({self.seeds} fresh seeds, {self.samples} validation samples, best of {self.candidates})"
        )
        if self.beyond_chance:
            return text
        text = f"No gain beyond chance: {text}"
        if self.mean <= 0:
            return text
        more = ((self.mean - self.low) / self.mean) ** 2  # the interval's variance falls as both numbers grow
        seeds, samples = (math.ceil(more * number) for number in (self.seeds, self.samples))
        return f"{text}. A gain of {mean} points would show with about {seeds} seeds and {samples} validation samples"
