"""What trainings recorded from stage to stage: the paper's Figures 3 and 4, and theta.

A figure has a panel for each experiment: runs that differ in their seeds alone. Each run is a faint line, their mean
a strong one. Each function takes runs of any kind, leaves out those that have nothing of what it draws, writes a PNG
file and returns its path, or None where there is nothing to draw.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from law_lightning.functional import FEATURES
from law_lightning.report.runs import Run
from law_lightning.report.style import COLOURS, new_figure, save, tidy

#: The lines of a run in a panel: by label a value for each stage, None where there is none.
Lines = dict[str, list[float | None]]


def draw_loss_gap(runs: Sequence[Run], path: Path) -> Path | None:
    """Draw the paper's Figure 3: training loss of the target minus that of the reference, mean over each stage.

    Two lines: mean K x L of the target minus mean L of the reference, and the same without weights.
    """

    def gaps(run: Run) -> Lines:
        return {"target weighted": _column(run, "weighted_loss_gap"), "target unweighted": _column(run, "loss_gap")}

    return _draw(runs, [gaps], path, "Training loss of the target\nless the reference (nats)", level=0.0)


def draw_weights(runs: Sequence[Run], path: Path) -> Path | None:
    """Draw the paper's Figure 4: mean weights of rare and of other classes; and of wrong and of right labels.

    The weight of a group of classes is the mean over its classes of their mean weight in the stage.
    """

    def classes(run: Run) -> Lines:
        lines: Lines = {"rare classes": [], "other classes": []}
        for record in run.history if run.rare else ():
            for name, of_rare in zip(lines, (True, False), strict=True):
                weights = [w for c, w in enumerate(record["weight_per_class"]) if (c in run.rare) == of_rare]
                known = [weight for weight in weights if weight is not None]
                lines[name].append(sum(known) / len(known) if known else None)
        return lines

    def labels(run: Run) -> Lines:
        return {"wrong labels": _column(run, "weight_wrong"), "right labels": _column(run, "weight_clean")}

    return _draw(runs, [classes, labels], path, "Mean weight", level=1.0, colours=(COLOURS[1], COLOURS[0]))


def draw_theta(runs: Sequence[Run], path: Path) -> Path | None:
    """Draw the entries of theta after the warm-up, by the feature they weigh; the last is b."""

    def entries(run: Run) -> Lines:
        thetas = [record.get("theta") or [] for record in run.history]
        length = max(map(len, thetas), default=0)
        names = FEATURES if length == len(FEATURES) + 1 else [f"feature {i}" for i in range(length - 1)]
        # In the warm-up all entries are 0.
        columns = zip(*(theta if any(theta) else [None] * length for theta in thetas), strict=True)
        return dict(zip([*names, "b"], map(list, columns), strict=False))

    return _draw(runs, [entries], path, "theta", level=0.0)


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


def _column(run: Run, name: str) -> list[float | None]:
    return [record.get(name) for record in run.history]


def _warmup(run: Run) -> int:
    """Number of stages before theta was anything but zero; 0 where it never was."""
    weighted = (stage for stage, record in enumerate(run.history) if any(record.get("theta") or ()))
    return next(weighted, 0)


def _draw(
    runs: Sequence[Run],
    kinds: Sequence[Callable[[Run], Lines]],
    path: Path,
    label: str,
    level: float,
    colours: Sequence[str] = COLOURS,
) -> Path | None:
    """Draw panels of lines below each other; ``level`` is the height at which nothing is weighted."""
    panels = []
    for lines_of in kinds:
        shown = [run for run in runs if any(v is not None for values in lines_of(run).values() for v in values)]
        panels += [(title, members, list(map(lines_of, members))) for title, members in by_settings(shown)]
    if not panels:
        return None
    figure = new_figure(8.8, 3.5 * len(panels))
    for axes, (title, members, lines) in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels, strict=True):
        stages = max(len(run.history) for run in members)
        for name, colour in zip(dict.fromkeys(name for each in lines for name in each), cycle(colours), strict=False):
            table = np.full((len(members), stages), np.nan)
            for row, each in zip(table, lines, strict=True):
                row[: len(each.get(name, ()))] = each.get(name, ())  # None becomes NaN
            _draw_lines(axes, table, name, colour)
        _draw_warmup(axes, min(map(_warmup, members)))
        axes.axhline(level, color="0.3", linewidth=1, zorder=1)
        axes.margins(y=0.12)  # neither line nor level runs through what is written at the lower edge
        axes.set_xlim(-0.5, stages - 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("Stage")
        axes.set_ylabel(label)
        axes.set_title(title, fontsize=10, loc="left", wrap=True)
        # Beside the lines, which may go anywhere.
        axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
        tidy(axes)
    return save(figure, path)


def _draw_lines(axes: Axes, table: NDArray[np.float64], label: str, colour: str) -> None:
    """Draw each run [runs, stages] as a faint line and their mean as a strong one; with one run only that."""
    if np.isnan(table).all():
        return
    if len(table) > 1:
        axes.plot(table.T, color=colour, linewidth=1, alpha=0.35)
        label = f"{label} (mean of {len(table)})"
    means = np.ma.masked_invalid(table).mean(axis=0).filled(np.nan)
    axes.plot(means, color=colour, linewidth=2.2, label=label, marker="o", markersize=3)


def _draw_warmup(axes: Axes, stages: int) -> None:
    if stages > 0:
        axes.axvspan(-0.5, stages - 0.5, color="0.94", zorder=0)
        place = (stages / 2 - 0.5, 0.02)
        axes.annotate("warm-up", place, xycoords=("data", "axes fraction"), ha="center", fontsize=8, color="0.4")
