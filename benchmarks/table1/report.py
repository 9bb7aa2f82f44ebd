"""The results as a table, beside the paper's figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from rivals.rows import Row

#: Table 1 of the paper, ResNet-18 on CIFAR-10 with 40 % noise: what LAW gains, in points.
PAPER_GAIN = 6.9

_WIDTHS = (8, 7, 9, 7, 13, 19, 10)


def table(rows: Sequence[Row]) -> str:
    """A line for each method: mean and deviation over its seeds, and the gain on the seeds it shares with the base.

    Args:
        rows: of the results.

    Raises:
        ValueError: there are none, or they are of several experiments.
    """
    if not rows:
        raise ValueError("There are no results yet: train first.")
    for name in ("settings", "strategy"):
        if len({row[name] for row in rows if row[name] is not None}) > 1:
            raise ValueError(f"The results are of several {name} and do not compare: keep each in an --out of its own.")
    methods = {
        method: {row["seed"]: 100 * row["accuracy"] for row in rows if row["method"] == method}
        for method in ("base", "law")
    }
    lines = [_line("method", "seeds", "mean %", "sd", "minus base", "95% interval", "the paper")]
    lines += [_of_method(name, values, methods["base"]) for name, values in methods.items() if values]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _of_method(name: str, values: Mapping[int, float], base: Mapping[int, float]) -> str:
    mean, sd = f"{np.mean([*values.values()]):.2f}", "-"
    if len(values) > 1:
        sd = f"{np.std([*values.values()], ddof=1):.2f}"
    shared = sorted(values.keys() & base.keys())
    if name == "base" or not shared:
        return _line(name, str(len(values)), mean, sd)
    gain, interval = _gain([values[seed] for seed in shared], [base[seed] for seed in shared])
    return _line(name, str(len(values)), mean, sd, f"{gain:+.2f}", interval, f"{PAPER_GAIN:+.1f}")


def _gain(values: Sequence[float], base: Sequence[float]) -> tuple[float, str]:
    """The mean paired difference, and its t-interval as text."""
    gain = float(np.mean(values) - np.mean(base))
    if len(values) < 2:
        return gain, "one seed"
    try:
        from law_lightning.report.compare import paired_difference
    except ImportError:  # the quantile of the t distribution
        return gain, "needs scipy"
    difference = paired_difference(values, base)
    return difference.mean, f"[{difference.low:+.2f}, {difference.high:+.2f}]"


def _line(*cells: str) -> str:
    first, *others = cells
    cells_and_widths = zip(others, _WIDTHS[1:], strict=False)
    return first.ljust(_WIDTHS[0]) + "".join(cell.rjust(width) for cell, width in cells_and_widths)
