"""What the strategy chose at each stage."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from law_lightning.functional import FEATURES
from law_lightning.report.lines import by_settings, draw_lines, finish
from law_lightning.report.runs import Run
from law_lightning.report.style import COLOURS, new_figure, save


def theta_entry(index: int, run: Run, record: dict[str, Any]) -> float | None:
    """An entry of theta in a stage; None in the warm-up."""
    theta: list[float] = record.get("theta") or []
    return theta[index] if any(theta) else None


def theta_length(run: Run) -> int:
    """How many entries theta has."""
    return max(len(record.get("theta") or ()) for record in run.history)


def theta_names(length: int) -> list[str]:
    """What theta's entries weigh: the features, then b; numbers where a strategy has features of its own choice."""
    features = FEATURES if length == len(FEATURES) + 1 else [f"feature {i}" for i in range(length - 1)]
    return [*features, "b"]


def draw_theta(runs: Sequence[Run], path: Path) -> Path | None:
    """Draw theta's entries at each stage.

    Args:
        runs: Trainings with a strategy.
        path: The PNG file to write.

    Returns:
        The file; None where no strategy chose anything.
    """
    runs = [run for run in runs if any(any(record.get("theta") or ()) for record in run.history)]
    if not runs:
        return None
    groups: dict[tuple[str, int], list[Run]] = {}
    for title, members in by_settings(runs):
        for run in members:  # a strategy's file may have been replaced by one of other features
            groups.setdefault((title, theta_length(run)), []).append(run)
    figure = new_figure(8.8, 3.6 * len(groups))
    panels = figure.subplots(len(groups), squeeze=False)[:, 0]
    for axes, ((title, length), members) in zip(panels, groups.items(), strict=True):
        for index, name in enumerate(theta_names(length)):
            draw_lines(axes, members, partial(theta_entry, index), name, COLOURS[index % len(COLOURS)])
        axes.set_ylabel("theta")
        finish(axes, members, title, level=0.0)
    return save(figure, path)
