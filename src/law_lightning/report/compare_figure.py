"""The figure of a comparison: every seed, the means, and the differences with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from law_lightning.report.compare import BASELINE, Epoch, Summary, accuracies, summarise
from law_lightning.report.records import Outcome
from law_lightning.report.style import BASE_COLOUR, COLOURS, new_figure, save, tidy

#: From so many methods on, their names no longer fit side by side.
_MANY = 4
_TITLES: dict[Epoch, str] = {"last": "Last epoch", "best": "Best epoch by validation"}


def draw_comparison(outcomes: Sequence[Outcome], path: Path, confidence: float = 0.95) -> Path:
    """Draw the outcomes of a comparison.

    The first two panels (one, without validation data) show the test accuracy of each seed, its methods joined by
    a line, and the mean of each method as a bar. The last shows the mean difference to ``base`` with its t-interval.

    Args:
        outcomes: One outcome per method and seed; every method on the same seeds, at least two.
        path: The PNG file to write.
        confidence: Coverage of the intervals.
    """
    epochs = accuracies(outcomes)
    methods = list(epochs["last"])
    others = [method for method in methods if method != BASELINE]
    colours = {method: COLOURS[index % len(COLOURS)] for index, method in enumerate(others)} | {BASELINE: BASE_COLOUR}
    summaries = [each for each in summarise(outcomes, confidence) if each.difference is not None]

    width = 2.6 + (0.5 * len(methods) if len(methods) >= _MANY else 0.0)
    figure = new_figure(len(epochs) * (2.3 + 0.6 * len(methods)) + (width if summaries else 0.0), 3.8)
    columns = len(epochs) + bool(summaries)
    panels: list[Axes] = []
    for epoch, values in epochs.items():
        panels.append(figure.add_subplot(1, columns, len(panels) + 1, sharey=panels[0] if panels else None))
        panels[-1].set_title(_TITLES[epoch], fontsize=11)
        _draw_seeds(panels[-1], values, colours)
    panels[0].set_ylabel("Test accuracy (%)")
    for axes in panels[1:]:
        axes.tick_params(labelleft=False)
    if summaries:
        panels.append(figure.add_subplot(1, columns, columns))
        panels[-1].set_title(f"Mean, {100 * confidence:g}% interval, n = {summaries[0].seeds}", fontsize=11)
        panels[-1].set_ylabel(f"Test accuracy above {BASELINE} (points)")
        _draw_differences(panels[-1], summaries, others, colours)
    slanted: dict[str, Any] = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"}
    for axes, names in zip(panels, [methods] * len(epochs) + [others], strict=False):
        axes.set_xticks(range(len(names)), names, **(slanted if len(methods) >= _MANY else {}))
        tidy(axes)
    return save(figure, path)


def _draw_seeds(axes: Axes, values: Mapping[str, Sequence[float]], colours: Mapping[str, str]) -> None:
    for accuracies_of_seed in zip(*values.values(), strict=True):
        axes.plot([100 * each for each in accuracies_of_seed], color="0.8", linewidth=1, zorder=1)
    for place, (method, of_method) in enumerate(values.items()):
        heights = [100 * each for each in of_method]
        mean = sum(heights) / len(heights)
        axes.scatter([place] * len(heights), heights, s=26, color=colours[method], alpha=0.8, zorder=2, linewidths=0)
        axes.hlines(mean, place - 0.22, place + 0.22, color="black", linewidth=2, zorder=3)
        box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 1}
        axes.annotate(f"{mean:.1f}", (place + 0.26, mean), va="center", fontsize=9, bbox=box)
    axes.set_xlim(-0.5, len(values) - 0.3)


def _draw_differences(
    axes: Axes, summaries: Sequence[Summary], methods: Sequence[str], colours: Mapping[str, str]
) -> None:
    two = len({summary.epoch for summary in summaries}) > 1
    for summary in summaries:
        mean, low, high = (100 * end for end in (summary.difference, summary.low, summary.high) if end is not None)
        colour, best = colours[summary.method], summary.epoch == "best"
        place = methods.index(summary.method) + (two and (0.12 if best else -0.12))
        face = "white" if best else colour
        ends = [[mean - low], [high - mean]]
        axes.errorbar(place, mean, ends, color=colour, marker="o", markerfacecolor=face, capsize=4, linewidth=1.8)
    if two:
        for label, face in (("last epoch", "0.3"), ("best epoch", "white")):
            axes.plot([], [], "o", color="0.3", markerfacecolor=face, label=label)
        axes.margins(y=0.22)  # space for the legend
        axes.legend(frameon=False, fontsize=9, loc="upper right")
    axes.axhline(0, color="0.3", linewidth=1)
    axes.set_xlim(-0.6, len(methods) - 0.4)
