"""Statistics of a comparison: means, deviations, and paired differences with their interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from law_lightning.report.records import Outcome

Epoch = Literal["last", "best"]


@dataclass(frozen=True)
class Difference:
    """A mean difference over pairs, with the ends of its two-sided t-interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Summary:
    """One method's line of a comparison.

    Attributes:
        method: Name of the method.
        epoch: Which epoch is judged: the last, or the best by validation accuracy.
        count: Number of seeds n.
        mean: Mean test accuracy over the seeds, in [0, 1].
        sd: Sample standard deviation over the seeds (divisor n - 1).
        difference: Accuracy gained over the baseline on the same seeds; None for the baseline itself.
    """

    method: str
    epoch: Epoch
    count: int
    mean: float
    sd: float
    difference: Difference | None


def paired_difference(values: Sequence[float], baseline: Sequence[float], confidence: float = 0.95) -> Difference:
    r"""Mean of the paired differences with its two-sided Student t-interval.

    .. math:: \bar d \pm t_{(1 + c) / 2,\, n - 1} \; s_d / \sqrt{n}

    with :math:`d_i` the difference of pair i, :math:`s_d` their sample standard deviation, n their number
    and c the confidence.

    Args:
        values: One number per pair [n].
        baseline: The other number of each pair [n], in the same order.
        confidence: Coverage c of the interval, in (0, 1).

    Example:
        >>> paired_difference([3.0, 5.0], [2.0, 2.0]).mean
        2.0
    """
    if len(values) != len(baseline) or len(values) < 2:
        raise ValueError(
            f"Paired differences need two lists of one length >= 2, got {len(values)} and {len(baseline)}."
        )
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence is {confidence}, but it must lie in (0, 1); 0.95 is usual.")
    differences = np.asarray(values, dtype=np.float64) - np.asarray(baseline, dtype=np.float64)
    mean = float(differences.mean())
    if np.ptp(differences) == 0.0:  # equal differences: the interval is a point, which scipy calls undefined
        return Difference(mean, mean, mean)
    interval = stats.ttest_1samp(differences, 0.0).confidence_interval(confidence)
    return Difference(mean, float(interval.low), float(interval.high))


def judged_epochs(outcomes: Sequence[Outcome]) -> tuple[Epoch, ...]:
    """The epochs that all outcomes know: the last, and the best by validation where there was validation data."""
    return ("last",) if any(outcome.acc_best is None for outcome in outcomes) else ("last", "best")


def summarise(outcomes: Sequence[Outcome], baseline: str = "base", confidence: float = 0.95) -> list[Summary]:
    """Summarise a comparison: a line per method and epoch, methods in order of appearance.

    Without validation data nobody can tell the best epoch, and there are lines for the last one only.

    Args:
        outcomes: One outcome per method and seed; every method on the same seeds, at least two.
        baseline: The method that differences are taken to. Without it among the methods, there are none.
        confidence: Coverage of the intervals.

    Raises:
        ValueError: If methods differ in their seeds, or there are fewer than two.
    """
    methods = list(dict.fromkeys(outcome.method for outcome in outcomes))
    seeds = sorted({outcome.seed for outcome in outcomes})
    table = {(outcome.method, outcome.seed): outcome for outcome in outcomes}
    missing = [(method, seed) for method in methods for seed in seeds if (method, seed) not in table]
    if missing:
        raise ValueError(f"A comparison needs every method on every seed; missing are {missing}.")
    if len(seeds) < 2:
        raise ValueError(f"A comparison needs at least 2 seeds, got {len(seeds)}.")

    summaries = []
    for epoch in judged_epochs(outcomes):
        columns = {method: [getattr(table[method, seed], f"acc_{epoch}") for seed in seeds] for method in methods}
        for method, values in columns.items():
            paired = method != baseline and baseline in columns
            summaries.append(
                Summary(
                    method=method,
                    epoch=epoch,
                    count=len(seeds),
                    mean=float(np.mean(values)),
                    sd=float(np.std(values, ddof=1)),
                    difference=paired_difference(values, columns[baseline], confidence) if paired else None,
                )
            )
    return summaries
