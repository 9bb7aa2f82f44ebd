"""A comparison of methods: means, deviations, paired differences with their interval, and the table of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from law_lightning.report.records import Outcome

Epoch = Literal["last", "best"]
#: The method that differences are taken to.
BASELINE = "base"
_EPOCHS: dict[Epoch, str] = {"last": "last", "best": "best by validation"}


@dataclass(frozen=True)
class Summary:
    """One method's line of a comparison.

    Attributes:
        method: Name of the method.
        epoch: Which epoch is judged: the last, or the best by validation accuracy.
        seeds: Number of seeds n.
        mean: Mean test accuracy over the seeds, in [0, 1].
        sd: Sample standard deviation over the seeds (divisor n - 1).
        difference: Mean accuracy gained over the baseline on the same seeds; None for the baseline itself.
        low: Lower end of the interval of that.
        high: Its upper end.
    """

    method: str
    epoch: Epoch
    seeds: int
    mean: float
    sd: float
    difference: float | None = None
    low: float | None = None
    high: float | None = None


def paired_difference(
    values: Sequence[float], baseline: Sequence[float], confidence: float = 0.95
) -> tuple[float, float, float]:
    r"""Mean of the paired differences with its two-sided Student t-interval.

    .. math:: \bar d \pm t_{(1 + c) / 2,\, n - 1} \; s_d / \sqrt{n}

    with :math:`d_i` the difference of pair i, :math:`s_d` their sample standard deviation, n their number
    and c the confidence.

    Args:
        values: One number per pair [n], at least two.
        baseline: The other number of each pair [n], in the same order.
        confidence: Coverage c of the interval, in (0, 1).

    Returns:
        The mean, and the lower and the upper end of the interval.

    Example:
        >>> paired_difference([3.0, 5.0], [2.0, 4.0])
        (1.0, 1.0, 1.0)
    """
    differences = np.asarray(values, dtype=np.float64) - np.asarray(baseline, dtype=np.float64)
    mean = float(differences.mean())
    if np.ptp(differences) == 0.0:  # equal differences: the interval is a point, which scipy calls undefined
        return mean, mean, mean
    interval = stats.ttest_1samp(differences, 0.0).confidence_interval(confidence)
    return mean, float(interval.low), float(interval.high)


def accuracies(outcomes: Sequence[Outcome]) -> dict[Epoch, dict[str, list[float]]]:
    """Test accuracies of each method over the seeds (ascending), for the last epoch and the best by validation.

    Without validation data there is no best epoch.

    Args:
        outcomes: One outcome per method and seed; every method on the same seeds.
    """
    ordered = sorted(outcomes, key=lambda outcome: outcome.seed)

    def columns(name: str) -> dict[str, list[float]]:
        methods = dict.fromkeys(outcome.method for outcome in outcomes)
        return {method: [getattr(each, name) for each in ordered if each.method == method] for method in methods}

    validated = all(outcome.acc_best is not None for outcome in outcomes)
    return {"last": columns("acc_last"), **({"best": columns("acc_best")} if validated else {})}


def summarise(outcomes: Sequence[Outcome], confidence: float = 0.95) -> list[Summary]:
    """Summarise a comparison: a line per epoch and method; without ``base`` among the methods no differences.

    Args:
        outcomes: One outcome per method and seed; every method on the same seeds, at least two.
        confidence: Coverage of the intervals.
    """
    summaries = []
    for epoch, columns in accuracies(outcomes).items():
        for method, values in columns.items():
            paired = BASELINE in columns and method != BASELINE
            difference = paired_difference(values, columns[BASELINE], confidence) if paired else ()
            mean, sd = float(np.mean(values)), float(np.std(values, ddof=1))
            summaries.append(Summary(method, epoch, len(values), mean, sd, *difference))
    return summaries


def summary_table(summaries: Sequence[Summary], confidence: float = 0.95) -> str:
    """Test accuracies in percent and differences in points, as a text table."""
    rows = [["method", "epoch", "seeds", "mean %", "sd", f"minus {BASELINE}", f"{100 * confidence:g}% interval"]]
    for each in summaries:
        gain = [f"{100 * end:+.2f}" for end in (each.difference, each.low, each.high) if end is not None]
        rows.append(
            [each.method, _EPOCHS[each.epoch], str(each.seeds), f"{100 * each.mean:.2f}", f"{100 * each.sd:.2f}"]
            + ([gain[0], f"[{gain[1]}, {gain[2]}]"] if gain else ["", ""])
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    line = "  ".join(f"{{:{'<' if position < 2 else '>'}{width}}}" for position, width in enumerate(widths))
    lines = [line.format(*row).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def needs_line(needs: Mapping[str, str]) -> str:
    """What methods need beside the training data; empty if none needs anything.

    Example:
        >>> needs_line({"base": "", "l2rw": "clean data", "law": "clean data"})
        'Needed beside the training data: clean data (l2rw, law).'
    """
    kinds = dict.fromkeys(what for what in needs.values() if what)
    parts = [f"{kind} ({', '.join(name for name in needs if needs[name] == kind)})" for kind in kinds]
    return f"Needed beside the training data: {'; '.join(parts)}." if parts else ""
