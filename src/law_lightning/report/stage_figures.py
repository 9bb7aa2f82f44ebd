"""What trainings recorded from stage to stage: the paper's Figures 3 and 4, and theta.

A figure has a panel for each experiment: runs that differ in their seeds alone. Each run is a faint line, their mean
a strong one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from law_lightning.functional import FEATURES
from law_lightning.report.runs import Run
from law_lightning.report.style import COLOURS, new_figure, save, tidy

#: A number of a run's stage, or None where there is none.
Quantity = Callable[[Run, dict[str, Any]], float | None]
#: Lines of a panel by their label.
Lines = Mapping[str, Quantity]


def draw_loss_gap(runs: Sequence[Run], path: Path) -> Path | None:
    """Draw the paper's Figure 3: training loss of the target less that of the reference, mean over each stage.

    Two lines: mean K x L of the target less mean L of the reference, and the same without weights.

    Args:
        runs: Runs of any kind; those without a reference are left out.
        path: The PNG file to write.

    Returns:
        The file; None where no run has a reference.
    """
    lines: Lines = {"target weighted": _column("weighted_loss_gap"), "target unweighted": _column("loss_gap")}
    panels = [(title, members, lines) for title, members in by_settings(_with(runs, lines["target unweighted"]))]
    return _draw(panels, path, "Training loss of the target\nless the reference (nats)", level=0.0)


def draw_weights(runs: Sequence[Run], path: Path) -> Path | None:
    """Draw the paper's Figure 4: mean weights of rare and of other classes; and of wrong and of right labels.

    The weight of a group of classes is the mean over its classes of their mean weight in the stage.

    Args:
        runs: Runs of any kind; those with neither rare classes nor known wrong labels are left out.
        path: The PNG file to write.

    Returns:
        The file; None where there is nothing to show.
    """
    pairs: list[Lines] = [
        {"rare classes": _weight_of_classes(rare=True), "other classes": _weight_of_classes(rare=False)},
        {"wrong labels": _column("weight_wrong"), "right labels": _column("weight_clean")},
    ]
    panels = [
        (title, members, lines)
        for lines in pairs
        for title, members in by_settings(_with(runs, next(iter(lines.values()))))
    ]
    return _draw(panels, path, "Mean weight", level=1.0, colours=(COLOURS[1], COLOURS[0]))


def draw_theta(runs: Sequence[Run], path: Path) -> Path | None:
    """Draw the entries of theta after the warm-up, by the feature they weigh; the last is b.

    Args:
        runs: Runs of any kind; those in which no strategy chose anything are left out.
        path: The PNG file to write.

    Returns:
        The file; None where no strategy chose anything.
    """
    panels: dict[tuple[str, int], tuple[str, list[Run], Lines]] = {}
    for title, members in by_settings([run for run in runs if _warmup(run) < len(run.history)]):
        for run in members:  # the file of a strategy may have been replaced by one of other features
            length = max(len(record.get("theta") or ()) for record in run.history)
            names = FEATURES if length == len(FEATURES) + 1 else [f"feature {i}" for i in range(length - 1)]
            lines = {name: _theta_entry(index) for index, name in enumerate([*names, "b"])}
            panels.setdefault((title, length), (title, [], lines))[1].append(run)
    return _draw(list(panels.values()), path, "theta", level=0.0)


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


def _column(name: str) -> Quantity:
    return lambda run, record: record.get(name)


def _weight_of_classes(rare: bool) -> Quantity:
    def mean(run: Run, record: dict[str, Any]) -> float | None:
        weights = [w for c, w in enumerate(record["weight_per_class"]) if (c in run.rare) == rare and w is not None]
        return sum(weights) / len(weights) if weights else None

    return mean


def _theta_entry(index: int) -> Quantity:
    def entry(run: Run, record: dict[str, Any]) -> float | None:
        theta: list[float] = record.get("theta") or []
        return theta[index] if any(theta) else None  # all are 0 in the warm-up

    return entry


def _with(runs: Sequence[Run], quantity: Quantity) -> list[Run]:
    """The runs that have the quantity at some stage."""
    return [run for run in runs if any(quantity(run, record) is not None for record in run.history)]


def _warmup(run: Run) -> int:
    """Number of stages before theta was anything but zero; of all stages, where it never was."""
    weighted = (stage for stage, record in enumerate(run.history) if any(record.get("theta") or ()))
    return next(weighted, len(run.history))


def _draw(
    panels: Sequence[tuple[str, Sequence[Run], Lines]],
    path: Path,
    label: str,
    level: float,
    colours: Sequence[str] = COLOURS,
) -> Path | None:
    """Draw panels of lines below each other; ``level`` is the height at which nothing is weighted."""
    if not panels:
        return None
    figure = new_figure(8.8, 3.5 * len(panels))
    for axes, (title, runs, lines) in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels, strict=True):
        for index, (name, quantity) in enumerate(lines.items()):
            if _with(runs, quantity):
                _draw_lines(axes, runs, quantity, name, colours[index % len(colours)])
        _draw_warmup(axes, min(map(_warmup, runs)))
        axes.axhline(level, color="0.3", linewidth=1, zorder=1)
        axes.margins(y=0.12)  # neither line nor level runs through what is written at the lower edge
        axes.set_xlim(-0.5, max(len(run.history) for run in runs) - 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("Stage")
        axes.set_ylabel(label)
        axes.set_title(title, fontsize=10, loc="left", wrap=True)
        # Beside the lines, which may go anywhere.
        axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
        tidy(axes)
    return save(figure, path)


def _draw_lines(axes: Axes, runs: Sequence[Run], quantity: Quantity, label: str, colour: str) -> None:
    """Draw each run as a faint line and the mean over runs as a strong one; with one run only that."""
    table = np.full((len(runs), max(len(run.history) for run in runs)), np.nan)
    for row, run in zip(table, runs, strict=True):
        row[: len(run.history)] = [quantity(run, record) for record in run.history]  # None becomes NaN
    if len(runs) > 1:
        axes.plot(table.T, color=colour, linewidth=1, alpha=0.35)
        label = f"{label} (mean of {len(runs)})"
    means = np.ma.masked_invalid(table).mean(axis=0).filled(np.nan)
    axes.plot(means, color=colour, linewidth=2.2, label=label, marker="o", markersize=3)


def _draw_warmup(axes: Axes, stages: int) -> None:
    if stages > 0:
        axes.axvspan(-0.5, stages - 0.5, color="0.94", zorder=0)
        place = (stages / 2 - 0.5, 0.02)
        axes.annotate("warm-up", place, xycoords=("data", "axes fraction"), ha="center", fontsize=8, color="0.4")
