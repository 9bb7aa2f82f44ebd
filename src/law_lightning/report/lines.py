"""What the figures over stages share: a line per run, the mean of several runs, and the axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from law_lightning.report.runs import Run
from law_lightning.report.style import tidy

#: A number of a run's stage, or None where there is none.
Quantity = Callable[[Run, dict[str, Any]], float | None]


def series(run: Run, quantity: Quantity) -> list[float]:
    """The quantity at each stage of a run, NaN where there is none."""
    values = (quantity(run, record) for record in run.history)
    return [float("nan") if value is None else value for value in values]


def known(runs: Sequence[Run], quantity: Quantity) -> list[Run]:
    """The runs that have the quantity at some stage."""
    return [run for run in runs if any(quantity(run, record) is not None for record in run.history)]


def by_settings(runs: Sequence[Run]) -> list[tuple[str, list[Run]]]:
    """Runs that differ in seeds alone, together, with a title that names the folder where two would be the same."""
    groups = {run.settings: [each for each in runs if each.settings == run.settings] for run in runs}
    titles = [members[0].title for members in groups.values()]
    return [
        (title if titles.count(title) == 1 else f"{title}: {members[0].folder}", members)
        for title, members in zip(titles, groups.values(), strict=True)
    ]


def draw_lines(axes: Axes, runs: Sequence[Run], quantity: Quantity, label: str, colour: str) -> None:
    """Draw each run as a faint line and the mean over runs as a strong one; with one run only that."""
    rows = [series(run, quantity) for run in runs]
    length = max(map(len, rows))
    table = np.array([row + [np.nan] * (length - len(row)) for row in rows])
    stages = np.arange(length)
    if len(rows) > 1:
        axes.plot(stages, table.T, color=colour, linewidth=1, alpha=0.35)
        label = f"{label} (mean of {len(rows)})"
    there = ~np.isnan(table).all(axis=0)
    means = np.full(length, np.nan)
    means[there] = np.nanmean(table[:, there], axis=0)
    axes.plot(stages, means, color=colour, linewidth=2.2, label=label, marker="o", markersize=3)


def finish(axes: Axes, runs: Sequence[Run], title: str, level: float) -> None:
    """Label the axes, shade the warm-up, and draw the level at which nothing is weighted."""
    length = max(len(run.history) for run in runs)
    warmup = min(_warmup(run) for run in runs)
    if warmup > 0:
        axes.axvspan(-0.5, warmup - 0.5, color="0.94", zorder=0)
        axes.annotate(
            "warm-up",
            (warmup / 2 - 0.5, 0.02),
            xycoords=("data", "axes fraction"),
            ha="center",
            fontsize=8,
            color="0.4",
        )
    axes.axhline(level, color="0.3", linewidth=1, zorder=1)
    axes.set_xlim(-0.5, length - 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("Stage")
    axes.set_title(title, fontsize=10, loc="left", wrap=True)
    # Beside the lines, which may go anywhere.
    axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
    tidy(axes)


def _warmup(run: Run) -> int:
    """Stages in which every sample weighed 1: those before theta was anything but zero."""
    for count, record in enumerate(run.history):
        if any(record.get("theta") or ()):
            return count
    return 0
