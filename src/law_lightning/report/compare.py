"""A comparison of methods: means, deviations, paired differences with their interval, and the table of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Literal

import numpy as np
from scipy import stats

from law_lightning.report.records import Outcome

Epoch = Literal["last", "best"]
_EPOCHS: dict[Epoch, str] = {"last": "last", "best": "best by validation"}


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


def paired_difference(values: Sequence[float], baseline: Sequence[float], confidence: float = 0.95) -> Difference:
    r"""Mean of the paired differences with its two-sided Student t-interval.

    .. math:: \bar d \pm t_{(1 + c) / 2,\, n - 1} \; s_d / \sqrt{n}

    with :math:`d_i` the difference of pair i, :math:`s_d` their sample standard deviation, n their number
    and c the confidence.

    Args:
        values: One number per pair [n].
        baseline: The other number of each pair [n], in the same order.
        confidence: Coverage c of the interval, in (0, 1).

    Raises:
        ValueError: The lists differ in length, or have fewer than two numbers.

    Example:
        >>> paired_difference([3.0, 5.0], [2.0, 2.0]).mean
        2.0
    """
    if len(values) != len(baseline) or len(values) < 2:
        raise ValueError(
            f"Paired differences need two lists of one length >= 2, got {len(values)} and {len(baseline)}."
        )
    differences = np.asarray(values, dtype=np.float64) - np.asarray(baseline, dtype=np.float64)
    mean = float(differences.mean())
    if np.ptp(differences) == 0.0:  # equal differences: the interval is a point, which scipy calls undefined
        return Difference(mean, mean, mean)
    interval = stats.ttest_1samp(differences, 0.0).confidence_interval(confidence)
    return Difference(mean, float(interval.low), float(interval.high))


def accuracies(outcomes: Sequence[Outcome]) -> dict[Epoch, dict[str, list[float]]]:
    """Test accuracies of each method over the seeds (ascending), for the last epoch and the best by validation.

    Without validation data there is no best epoch.

    Args:
        outcomes: One outcome per method and seed; every method on the same seeds.
    """
    methods = dict.fromkeys(outcome.method for outcome in outcomes)
    ordered = sorted(outcomes, key=lambda outcome: outcome.seed)
    of_method = {method: [outcome for outcome in ordered if outcome.method == method] for method in methods}
    found: dict[Epoch, dict[str, list[float]]] = {
        "last": {method: [outcome.acc_last for outcome in runs] for method, runs in of_method.items()}
    }
    best = {method: [o.acc_best for o in runs if o.acc_best is not None] for method, runs in of_method.items()}
    return found | ({"best": best} if sum(map(len, best.values())) == len(outcomes) else {})


def summarise(outcomes: Sequence[Outcome], baseline: str = "base", confidence: float = 0.95) -> list[Summary]:
    """Summarise a comparison: a line per epoch and method, methods in order of appearance.

    Args:
        outcomes: One outcome per method and seed; every method on the same seeds, at least two.
        baseline: The method that differences are taken to. Without it among the methods, there are none.
        confidence: Coverage of the intervals.
    """
    summaries = []
    for epoch, columns in accuracies(outcomes).items():
        for method, values in columns.items():
            paired = baseline in columns and method != baseline
            difference = astuple(paired_difference(values, columns[baseline], confidence)) if paired else ()
            mean, sd = float(np.mean(values)), float(np.std(values, ddof=1))
            summaries.append(Summary(method, epoch, len(values), mean, sd, *difference))
    return summaries


def summary_table(summaries: Sequence[Summary], baseline: str = "base", confidence: float = 0.95) -> str:
    """Test accuracies in percent and differences in points, as a text table."""
    rows = [["method", "epoch", "seeds", "mean %", "sd", f"minus {baseline}", f"{100 * confidence:g}% interval"]]
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
    parts = [
        f"{what} ({', '.join(method for method, each in needs.items() if each == what)})"
        for what in dict.fromkeys(needs.values())
        if what
    ]
    return f"Needed beside the training data: {'; '.join(parts)}." if parts else ""
