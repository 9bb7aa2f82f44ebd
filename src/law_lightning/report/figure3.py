"""The paper's Figure 3: the loss that the target trains on beside that of the reference, and the plain one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from law_lightning.report.lines import by_settings, draw_lines, finish, known
from law_lightning.report.runs import Run
from law_lightning.report.style import COLOURS, new_figure, save


def weighted_gap(run: Run, record: dict[str, Any]) -> float | None:
    """The target's weighted training loss, mean K x L, less the reference's mean L; mean over the stage."""
    gap: float | None = record.get("weighted_loss_gap")
    return gap


def plain_gap(run: Run, record: dict[str, Any]) -> float | None:
    """Training loss of the target less that of the reference, both unweighted, mean over the stage."""
    gap: float | None = record.get("loss_gap")
    return gap


def draw_loss_gap(runs: Sequence[Run], path: Path) -> Path | None:
    """Draw the loss gap of each stage.

    Args:
        runs: Trainings; those without a reference are left out.
        path: The PNG file to write.

    Returns:
        The file; None where no run has a reference.
    """
    runs = known(runs, plain_gap)
    if not runs:
        return None
    groups = by_settings(runs)
    figure = new_figure(8.8, 3.4 * len(groups))
    for axes, (title, members) in zip(figure.subplots(len(groups), squeeze=False)[:, 0], groups, strict=True):
        if known(members, weighted_gap):  # histories of before have none
            draw_lines(axes, members, weighted_gap, "target weighted", COLOURS[0])
        draw_lines(axes, members, plain_gap, "target unweighted", COLOURS[1])
        axes.set_ylabel("Training loss of the target\nless the reference (nats)")
        finish(axes, members, title, level=0.0)
        axes.margins(y=0.12)  # the line at 0 must not run through what is written below it
    return save(figure, path)
