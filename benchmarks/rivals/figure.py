"""The figure of a task: how LAW learns, and where all methods end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from law_lightning.report.style import BASE_COLOUR, COLOURS, new_figure, save, tidy
from rivals.law import LAW, VARIANTS
from rivals.methods import BASE, RIVALS
from rivals.rows import Row
from rivals.summary import Summary

_LAW_COLOUR, _RIVAL_COLOUR = COLOURS[0], COLOURS[1]


def draw_task(task: str, rows: Sequence[Row], summaries: Sequence[Summary], path: Path) -> Path:
    """Draw one task.

    To the left the gain of LAW's greedy strategy in the course of the search, on validation data: the mean over
    searches, the band from the lowest to the highest. To the right what each method ended with on test data: a dot
    for each search, a mark for its gain as the table has it, the mean over draws.

    Args:
        task: its name.
        rows: all rows.
        summaries: all summaries.
        path: The PNG file to write.
    """
    shown = [summary for summary in summaries if summary.task == task and summary.method != BASE]
    draws = {draw for summary in shown if summary.method == LAW for draw in summary.draws}
    curves = [row["curve"] for row in rows if (row["task"], row["method"]) == (task, LAW) and row["draw"] in draws]
    width = max(2.0, 0.42 * len(shown))  # room for the title
    figure = new_figure(4.6 + width, 4.2)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[4.0, width])
    _draw_curve(left, curves)
    _draw_methods(right, shown)
    for axes in (left, right):
        axes.axhline(0, color="0.3", linewidth=1, zorder=1)
        tidy(axes)
    figure.suptitle(task, fontsize=12)
    return save(figure, path)


def _draw_curve(axes: Axes, curves: Sequence[Sequence[tuple[int, float]]]) -> None:
    axes.set_title("LAW's greedy strategy, validation", fontsize=11, loc="left")
    axes.set_ylabel("Accuracy gained (points)")
    axes.set_xlabel("Episode")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    if not curves:
        axes.text(0.5, 0.5, "not searched", transform=axes.transAxes, ha="center", color="0.4")
        return
    episodes = sorted({episode for curve in curves for episode, _ in curve})
    found = [[100 * gain for curve in curves for at, gain in curve if at == episode] for episode in episodes]
    # Weights begin at one, so a search begins at no gain.
    x, means = [0, *episodes], [0.0, *(float(np.mean(values)) for values in found)]
    axes.fill_between(
        x,
        [0.0, *map(min, found)],
        [0.0, *map(max, found)],
        color=_LAW_COLOUR,
        alpha=0.18,
        linewidth=0,
        label=f"lowest to highest of {len(curves)}",
    )
    axes.plot(x, means, color=_LAW_COLOUR, marker="o", markersize=4, linewidth=2, label="mean over searches")
    axes.set_xlim(left=0)
    axes.legend(frameon=False, fontsize=9, loc="best")


def _draw_methods(axes: Axes, summaries: Sequence[Summary]) -> None:
    axes.set_title("Found strategies, test", fontsize=11, loc="left")
    for place, summary in enumerate(summaries):
        colour = _colour(summary.method)
        values = 100 * summary.by_search
        axes.scatter([place] * len(values), values, s=22, color=colour, alpha=0.6, linewidths=0, zorder=2)
        axes.hlines(100 * summary.interval.mean, place - 0.32, place + 0.32, color=colour, linewidth=2.5, zorder=3)
    axes.set_xticks(range(len(summaries)), [summary.method for summary in summaries], rotation=60, ha="right")
    axes.set_xlim(-0.6, len(summaries) - 0.4)
    axes.tick_params(axis="x", labelsize=9)


def _colour(method: str) -> str:
    """LAW, rivals that search, and what does not look at validation data."""
    if method in VARIANTS:
        return _LAW_COLOUR
    return _RIVAL_COLOUR if method in RIVALS else BASE_COLOUR
