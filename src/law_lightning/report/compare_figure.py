"""The figure of a comparison: every seed, the means, and the differences with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from law_lightning.report.compare import Epoch, judged_epochs, summarise
from law_lightning.report.records import Outcome
from law_lightning.report.style import colour_of, new_figure, save, tidy

#: From so many methods on, their names no longer fit side by side.
_MANY = 4

_TITLES: dict[Epoch, str] = {"last": "Last epoch", "best": "Best epoch by validation"}


def draw_comparison(outcomes: Sequence[Outcome], path: Path, baseline: str = "base", confidence: float = 0.95) -> Path:
    """Draw the outcomes of a comparison.

    The first two panels (one, without validation data) show the test accuracy of each seed, its methods joined by
    a line, and the mean of each method as a bar. The last shows the mean difference to the baseline with its
    t-interval.

    Args:
        outcomes: One outcome per method and seed.
        path: The PNG file to write.
        baseline: The method that differences are taken to.
        confidence: Coverage of the intervals.
    """
    methods = list(dict.fromkeys(outcome.method for outcome in outcomes))
    paired = baseline in methods and len(methods) > 1
    epochs = judged_epochs(outcomes)
    width = 2.6 + (0.5 * len(methods) if len(methods) >= _MANY else 0.0)
    figure = new_figure(len(epochs) * (2.3 + 0.6 * len(methods)) + (width if paired else 0.0), 3.8)
    panels = figure.subplots(1, len(epochs) + paired, squeeze=False)[0]
    for axes, epoch in zip(panels, epochs, strict=False):
        _draw_seeds(axes, outcomes, methods, epoch, baseline)
    panels[0].set_ylabel("Test accuracy (%)")
    for axes in panels[1 : len(epochs)]:
        axes.sharey(panels[0])
        axes.tick_params(labelleft=False)
    if paired:
        _draw_differences(panels[-1], outcomes, methods, baseline, confidence)
    return save(figure, path)


def _draw_seeds(axes: Axes, outcomes: Sequence[Outcome], methods: Sequence[str], epoch: Epoch, baseline: str) -> None:
    table = {(outcome.method, outcome.seed): outcome for outcome in outcomes}
    seeds = sorted({outcome.seed for outcome in outcomes})
    heights = {method: [100 * getattr(table[method, seed], f"acc_{epoch}") for seed in seeds] for method in methods}
    for index in range(len(seeds)):
        axes.plot(range(len(methods)), [heights[m][index] for m in methods], color="0.8", linewidth=1, zorder=1)
    for position, method in enumerate(methods):
        colour = colour_of(position, method, baseline)
        axes.scatter([position] * len(seeds), heights[method], s=26, color=colour, alpha=0.8, zorder=2, linewidths=0)
        mean = sum(heights[method]) / len(seeds)
        axes.hlines(mean, position - 0.22, position + 0.22, color="black", linewidth=2, zorder=3)
        axes.annotate(
            f"{mean:.1f}",
            (position + 0.26, mean),
            va="center",
            fontsize=9,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 1},
        )
    _name(axes, methods, len(methods))
    axes.set_xlim(-0.5, len(methods) - 0.5 + 0.2)
    axes.set_title(_TITLES[epoch], fontsize=11)
    tidy(axes)


def _draw_differences(
    axes: Axes, outcomes: Sequence[Outcome], methods: Sequence[str], baseline: str, confidence: float
) -> None:
    summaries = [s for s in summarise(outcomes, baseline, confidence) if s.difference is not None]
    summaries.sort(key=lambda summary: methods.index(summary.method))
    many = len(methods) >= _MANY  # then a method has one place: last epoch filled, best epoch hollow beside it
    others = list(dict.fromkeys(summary.method for summary in summaries))
    for index, summary in enumerate(summaries):
        best = summary.epoch == "best"
        place = others.index(summary.method) + (0.2 if best else -0.1) if many else index
        assert summary.difference is not None
        mean = 100 * summary.difference.mean
        low, high = 100 * summary.difference.low, 100 * summary.difference.high
        axes.errorbar(
            place,
            mean,
            yerr=[[mean - low], [high - mean]],
            color=colour_of(methods.index(summary.method), summary.method, baseline),
            marker="o",
            markerfacecolor="white" if many and best else None,
            capsize=4,
            linewidth=1.8,
        )
    axes.axhline(0, color="0.3", linewidth=1)
    labels = others if many else [f"{summary.method}\n{summary.epoch} epoch" for summary in summaries]
    _name(axes, labels, len(methods))
    axes.set_xlim(-0.6, len(labels) - 0.4)
    axes.set_ylabel(f"Test accuracy above {baseline} (points)")
    seeds = len({outcome.seed for outcome in outcomes})
    hollow = ", best epoch hollow" if many and any(summary.epoch == "best" for summary in summaries) else ""
    axes.set_title(f"Mean, {confidence:.0%} interval, n = {seeds}{hollow}", fontsize=11)
    tidy(axes)


def _name(axes: Axes, labels: Sequence[str], methods: int) -> None:
    """Put names below the places."""
    slanted: dict[str, Any] = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if methods >= _MANY else {}
    axes.set_xticks(range(len(labels)), labels, **slanted)
