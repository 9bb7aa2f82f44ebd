"""What trainings recorded from stage to stage: the strategy as a person reads it, and the paper's Figures 3 and 4.

A figure has panels for each experiment: runs that differ in their seeds alone, of which it shows the mean. Each
function takes runs of any kind, leaves out those that have nothing of what it draws, writes a PNG file and returns its
path, or None where there is nothing to draw.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from law_lightning.functional import FEATURES
from law_lightning.report.runs import Run
from law_lightning.report.style import COLOURS, DASHES, MARKERS, new_figure, save, tidy
from law_lightning.stages.curves import LOSS_EDGES, MARGIN_EDGES

#: The numbers of a run in a panel: by label a value for each stage, None where there is none.
Lines = dict[str, list[float | None]]
Table = NDArray[np.float64]
#: What a feature is called for a reader who does not know the paper.
PLAIN = {
    "loss": "loss", "entropy": "uncertainty (entropy)", "density": "similarity to others (density)",
    "label": "number of the class", "margin": "margin of the label", "b": "constant b",
}  # fmt: skip
#: Stages that a figure of curves shows at most.
_CURVES = 4


def draw_loss_gap(runs: Sequence[Run], path: Path) -> Path | None:
    """Draw the paper's Figure 3: training loss of the target minus that of the reference, mean over each stage.

    Two lines: mean K x L of the target minus mean L of the reference, and the same without weights.
    """

    def gaps(run: Run) -> Lines:
        return {"target weighted": _column(run, "weighted_loss_gap"), "target unweighted": _column(run, "loss_gap")}

    def draw(axes: Axes, runs: Sequence[Run]) -> None:
        _draw_stages(axes, runs, gaps, 0.0, "Training loss of the target\nless the reference (nats)")

    return _draw(runs, [(gaps, draw)], path)


def draw_weights(runs: Sequence[Run], path: Path) -> Path | None:
    """Draw the paper's Figure 4, mean weights of rare and other classes, and of wrong and right labels; and the spread.

    The weight of a group of classes is the mean over its classes of their mean weight in the stage, each of which is a
    small marker. Of labels, a band holds the middle half of the samples, a fainter one nine tenths.
    """

    def classes(run: Run) -> Lines:
        lines: Lines = {"rare classes": [], "other classes": []}
        for record in run.history if run.rare else ():
            for name, of_rare in zip(lines, (True, False), strict=True):
                known = _weights(run, record, of_rare)
                lines[name].append(sum(known) / len(known) if known else None)
        return lines

    def labels(run: Run) -> Lines:
        return {"wrong labels": _column(run, "weight_wrong"), "right labels": _column(run, "weight_clean")}

    def draw_classes(axes: Axes, runs: Sequence[Run]) -> None:
        _draw_stages(axes, runs, classes, 1.0, "Mean weight\n(small: of each class)")
        for of_rare, colour, marker, beside in zip((True, False), COLOURS, MARKERS, (-0.15, 0.15), strict=False):
            stages, weights = [], []
            for run in runs:
                for stage, record in enumerate(run.history):
                    known = _weights(run, record, of_rare)
                    stages += [stage + beside] * len(known)
                    weights += known
            face = colour if of_rare else "none"
            axes.scatter(stages, weights, s=7, marker=marker, facecolors=face, edgecolors=colour, alpha=0.5)

    def draw_labels(axes: Axes, runs: Sequence[Run]) -> None:
        _draw_stages(axes, runs, labels, 1.0, "Mean weight")
        for name, colour, hatch in zip(("wrong", "clean"), COLOURS, ("////", None), strict=False):
            quantiles = _mean([_column(run, f"weight_{name}_quantiles") for run in runs], 5)
            if np.isnan(quantiles).all():  # earlier versions did not record them
                continue
            axes.set_ylabel("Mean weight\n(bands: 50 and 90 %)")
            stages = np.arange(len(quantiles))
            for low, high, alpha in ((0, 4, 0.12), (1, 3, 0.25)):
                axes.fill_between(stages, quantiles[:, low], quantiles[:, high], color=colour, alpha=alpha, linewidth=0)
            axes.fill_between(
                *(stages, quantiles[:, 1], quantiles[:, 3]),
                facecolor="none", edgecolor=colour, alpha=0.5, hatch=hatch, linewidth=0,
            )  # fmt: skip

    return _draw(runs, [(classes, draw_classes), (labels, draw_labels)], path)


def draw_curves(runs: Sequence[Run], path: Path) -> Path | None:
    """Draw the mean weight of samples by their loss and by their margin, a curve for each of a few stages."""
    half = 10**0.25  # the outer bins are open: drawn as wide as the others
    losses = [LOSS_EDGES[0] / half, *(edge * half for edge in LOSS_EDGES)]
    margins = [-0.95, *(edge + 0.05 for edge in MARGIN_EDGES)]

    def panel(name: str, places: Sequence[float], label: str) -> tuple[Callable[[Run], Lines], Any]:
        def has(run: Run) -> Lines:
            return {name: [mean for means in _column(run, name) for mean in means or ()]}

        def draw(axes: Axes, runs: Sequence[Run]) -> None:
            means = _mean([_column(run, name) for run in runs], len(places))
            known = np.flatnonzero(~np.isnan(means).all(axis=1))
            shown = dict.fromkeys(known[np.linspace(0, len(known) - 1, _CURVES).round().astype(int)].tolist())
            for stage, look in zip(shown, zip(COLOURS, MARKERS, DASHES, strict=True), strict=False):
                colour, marker, dash = look
                axes.plot(
                    *(places, means[stage]),
                    color=colour, marker=marker, linestyle=dash, markersize=4, linewidth=1.6, label=f"stage {stage}",
                )  # fmt: skip
            axes.axhline(1.0, color="0.3", linewidth=1, zorder=1)
            axes.set(xlabel=label, ylabel="Mean weight", ylim=(min(0.0, axes.get_ylim()[0]), None))
            axes.set(**({"xscale": "log"} if name == "weight_by_loss" else {"xlim": (-1.05, 1.05)}))

        return has, draw

    kinds = [
        panel("weight_by_loss", losses, "Loss (nats): small fits the label, large contradicts it"),
        panel("weight_by_margin", margins, "Margin: +1 fits the label, -1 contradicts it"),
    ]
    return _draw(runs, kinds, path, legend=_CURVES)


def draw_theta(runs: Sequence[Run], path: Path) -> Path | None:
    """Draw theta as a heat map: a row for each feature that it weighs and one for b, a column for each stage."""

    def entries(run: Run) -> Lines:
        return {"theta": [float(any(theta)) or None for theta in _thetas(run)]}

    def draw(axes: Axes, runs: Sequence[Run]) -> None:
        thetas = [[None] * _warmup(run) + _thetas(run)[_warmup(run) :] for run in runs]
        length = max(len(theta) for theta in _thetas(runs[0]))
        means = _mean(thetas, length).T
        greatest = float(np.nanmax(np.abs(means)))
        image = axes.imshow(means, cmap="PuOr_r", vmin=-greatest, vmax=greatest, aspect="auto", interpolation="none")
        for (row, stage), value in np.ndenumerate(means):
            if abs(value) > greatest / 20:  # so that the sign is seen without colour
                colour = "white" if abs(value) > 0.6 * greatest else "black"
                sign = "+" if value > 0 else "\N{MINUS SIGN}"
                axes.annotate(sign, (stage, row), ha="center", va="center", fontsize=8, color=colour)
        names = [textwrap.fill(PLAIN.get(name, name), 16) for name in _features(runs[0], length - 1)]
        axes.set_yticks(range(length), names, fontsize=9)
        axes.set_xlabel("Stage")
        axes.figure.colorbar(image, ax=axes, label="theta", shrink=0.9, pad=0.02)

    return _draw(runs, [(entries, draw)], path, legend=0, height=2.2)


def by_settings(runs: Sequence[Run]) -> list[tuple[str, list[Run]]]:
    """Runs that differ in seeds alone, together, with a title that names the folder where two would be the same."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.settings, []).append(run)
    titles = [members[0].title for members in groups.values()]
    return [
        (title if titles.count(title) == 1 else f"{title}: {members[0].folder}", members)
        for title, members in zip(titles, groups.values(), strict=True)
    ]


def _column(run: Run, name: str) -> list[Any]:
    return [record.get(name) for record in run.history]


def _thetas(run: Run) -> list[list[float]]:
    return [theta or [] for theta in _column(run, "theta")]


def _warmup(run: Run) -> int:
    """Number of stages before theta was anything but zero; 0 where it never was."""
    return next((stage for stage, theta in enumerate(_thetas(run)) if any(theta)), 0)


def _features(run: Run, count: int) -> list[str]:
    """Names of theta's entries; earlier versions did not record them."""
    usual = FEATURES if count == len(FEATURES) else [f"feature {i}" for i in range(count)]
    return [*(run.history[-1].get("features") or usual), "b"]


def _weights(run: Run, record: dict[str, Any], of_rare: bool) -> list[float]:
    """The known mean weights of the rare or of the other classes in a stage."""
    weights = enumerate(record["weight_per_class"])
    return [weight for index, weight in weights if (index in run.rare) == of_rare and weight is not None]


def _mean(columns: Sequence[Sequence[Sequence[float | None] | None]], width: int) -> Table:
    """The mean over runs of a column of lists, [stages, width]; NaN where no run has a number."""
    table = np.full((len(columns), max(map(len, columns)), width), np.nan)
    for of_run, column in zip(table, columns, strict=True):
        for row, values in zip(of_run, column, strict=False):
            row[: len(values or ())] = values or ()  # None becomes NaN
    means: Table = np.ma.masked_invalid(table).mean(axis=0).filled(np.nan)
    return means


def _draw(
    runs: Sequence[Run],
    kinds: Sequence[tuple[Callable[[Run], Lines], Callable[[Axes, Sequence[Run]], None]]],
    path: Path,
    legend: int = 2,
    height: float = 2.9,
) -> Path | None:
    """Draw panels below each other, of each experiment those of all kinds.

    Args:
        runs: Of any kind.
        kinds: The lines that a run must have one of, and what draws the runs of an experiment.
        path: The PNG file.
        legend: Columns of the legend; 0 draws none.
        height: Of a panel, in inches.
    """
    experiments = []
    for title, members in by_settings(runs):
        panels = [
            (draw, shown) for lines_of, draw in kinds if (shown := [run for run in members if _has(lines_of(run))])
        ]
        if panels:
            several = f", mean of {len(panels[0][1])} runs" if len(panels[0][1]) > 1 else ""
            experiments.append((textwrap.fill(title + several, 56), panels))
    if not experiments:
        return None
    heights = [0.3 + 0.17 * title.count("\n") + height * len(panels) for title, panels in experiments]
    figure = new_figure(sum(heights))
    parts = figure.subfigures(len(experiments), squeeze=False, height_ratios=heights)[:, 0]
    for part, (title, panels) in zip(parts, experiments, strict=True):
        part.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
        for axes, (draw, shown) in zip(part.subplots(len(panels), squeeze=False)[:, 0], panels, strict=True):
            draw(axes, shown)
            tidy(axes, legend=legend)
    return save(figure, path)


def _has(lines: Lines) -> bool:
    return any(value is not None for values in lines.values() for value in values)


def _draw_stages(
    axes: Axes,
    runs: Sequence[Run],
    lines_of: Callable[[Run], Lines],
    level: float,
    label: str,
) -> None:
    """Draw the mean of the runs' lines from stage to stage; ``level`` is the height at which nothing is weighted."""
    lines = list(map(lines_of, runs))
    stages = max(len(run.history) for run in runs)
    looks = zip(COLOURS, MARKERS, DASHES, strict=True)
    for name, (colour, marker, dash) in zip(
        dict.fromkeys(name for each in lines for name in each), looks, strict=False
    ):
        table = np.full((len(runs), stages), np.nan)
        for row, each in zip(table, lines, strict=True):
            row[: len(each.get(name, ()))] = each.get(name, ())  # None becomes NaN
        if not np.isnan(table).all():
            if len(table) > 1:
                axes.plot(table.T, color=colour, linestyle=dash, linewidth=0.8, alpha=0.4)
            means = np.ma.masked_invalid(table).mean(axis=0).filled(np.nan)
            axes.plot(
                means, color=colour, marker=marker, linestyle=dash, linewidth=2, markersize=4, label=name, zorder=3
            )
    warmup = min(map(_warmup, runs))
    if warmup > 0:
        axes.axvspan(-0.5, warmup - 0.5, color="0.94", zorder=0)
        place = (warmup / 2 - 0.5, 0.03)
        axes.annotate(
            "warm-up", place, xycoords=("data", "axes fraction"), ha="center", rotation=90, fontsize=8, color="0.4"
        )
    axes.axhline(level, color="0.3", linewidth=1, zorder=1)
    axes.margins(y=0.12)  # neither line nor level runs through what is written at the lower edge
    axes.set_xlim(-0.5, stages - 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="Stage", ylabel=label)
