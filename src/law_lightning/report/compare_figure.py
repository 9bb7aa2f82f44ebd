"""The figure of a comparison: every seed, the means, and the differences with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes

from law_lightning.report.compare import BASELINE, Epoch, Summary, accuracies, summarise
from law_lightning.report.records import Outcome
from law_lightning.report.style import BASE_COLOUR, COLOURS, new_figure, save, tidy

_TITLES: dict[Epoch, str] = {"last": "Last epoch", "best": "Best epoch by validation"}


def draw_comparison(outcomes: Sequence[Outcome], path: Path, confidence: float = 0.95) -> Path:
    """Draw the outcomes of a comparison, a row for each method.

    The first two panels (one, without validation data) show the test accuracy of each seed, and the mean of each
    method as a bar with its number. The last shows the mean difference to ``base`` with its t-interval.

    Args:
        outcomes: One outcome per method and seed; every method on the same seeds, at least two.
        path: The PNG file to write.
        confidence: Coverage of the intervals.
    """
    epochs = accuracies(outcomes)
    methods = list(epochs["last"])
    others = [method for method in methods if method != BASELINE]
    summaries = [each for each in summarise(outcomes, confidence) if each.difference is not None]

    rows = [len(methods)] * len(epochs) + [1.3 * len(others)] * bool(summaries)
    figure = new_figure(sum(0.95 + 0.26 * count for count in rows))
    grid = figure.add_gridspec(len(rows), 1, height_ratios=[0.95 + 0.26 * count for count in rows])
    panels: list[Axes] = []
    for epoch, values in epochs.items():
        panels.append(figure.add_subplot(grid[len(panels)], sharex=panels[0] if panels else None))
        _draw_seeds(panels[-1], values)
        panels[-1].set_xlabel("Test accuracy (%)")
        tidy(panels[-1], f"{_TITLES[epoch]}: seeds and mean")
    if summaries:
        panels.append(figure.add_subplot(grid[-1]))
        _draw_differences(panels[-1], summaries, others)
        panels[-1].set_xlabel(f"Test accuracy above {BASELINE} (points)")
        title = f"Mean gain, {100 * confidence:g}% interval, n = {summaries[0].seeds}"
        tidy(panels[-1], title, 2 * (len(epochs) > 1))
    for axes, names in zip(panels, [methods] * len(epochs) + [others], strict=False):
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.4, -0.6)  # the first on top
    return save(figure, path)


def _draw_seeds(axes: Axes, values: Mapping[str, Sequence[float]]) -> None:
    for row, of_method in enumerate(values.values()):
        places = [100 * each for each in of_method]
        mean = sum(places) / len(places)
        axes.scatter(places, [row] * len(places), s=22, facecolors="none", edgecolors=COLOURS[0], zorder=2)
        axes.vlines(mean, row - 0.3, row + 0.3, color="black", linewidth=2, zorder=3)
        axes.annotate(f"{mean:.1f}", (1.01, row), xycoords=("axes fraction", "data"), va="center", fontsize=9)


def _draw_differences(axes: Axes, summaries: Sequence[Summary], methods: Sequence[str]) -> None:
    two = len({summary.epoch for summary in summaries}) > 1
    for epoch, colour, marker, shift in (("last", COLOURS[0], "o", -0.17), ("best", BASE_COLOUR, "s", 0.17)):
        chosen = [summary for summary in summaries if summary.epoch == epoch]
        for number, summary in enumerate(chosen):
            mean, low, high = (100 * end for end in (summary.difference, summary.low, summary.high) if end is not None)
            axes.errorbar(
                *(mean, methods.index(summary.method) + two * shift),
                xerr=[[mean - low], [high - mean]],
                color=colour, marker=marker, markersize=5, capsize=3, linewidth=1.6,
                markerfacecolor=colour if epoch == "last" else "white",
                label=f"{epoch} epoch" if number == 0 else None,
            )  # fmt: skip
    axes.axvline(0, color="0.3", linewidth=1)
