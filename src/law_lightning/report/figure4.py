"""The paper's Figure 4: what rare classes weigh beside the others; and, for noise, wrong labels beside right ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from law_lightning.report.lines import Quantity, by_settings, draw_lines, finish, known
from law_lightning.report.runs import Run
from law_lightning.report.style import COLOURS, new_figure, save


def rare_weight(run: Run, record: dict[str, Any]) -> float | None:
    """Mean over the rare classes of their mean weight in the stage."""
    return _mean([weight for c, weight in enumerate(record["weight_per_class"]) if c in run.rare])


def other_weight(run: Run, record: dict[str, Any]) -> float | None:
    """Mean over the other classes, where some are rare."""
    return _mean([weight for c, weight in enumerate(record["weight_per_class"]) if c not in run.rare and run.rare])


def wrong_weight(run: Run, record: dict[str, Any]) -> float | None:
    """Mean weight of training samples with a wrong label."""
    weight: float | None = record.get("weight_wrong")
    return weight


def right_weight(run: Run, record: dict[str, Any]) -> float | None:
    """Mean weight of training samples with a right label, where some are wrong."""
    weight: float | None = record.get("weight_clean")
    return weight


def _mean(weights: Sequence[float | None]) -> float | None:
    seen = [weight for weight in weights if weight is not None]
    return sum(seen) / len(seen) if seen else None


#: Pairs of lines: label and quantity.
_PAIRS: tuple[tuple[tuple[str, Quantity], ...], ...] = (
    (("rare classes", rare_weight), ("other classes", other_weight)),
    (("wrong labels", wrong_weight), ("right labels", right_weight)),
)


def draw_weights(runs: Sequence[Run], path: Path) -> Path | None:
    """Draw mean weights of two groups of samples at each stage, a panel for each pair and kind of run.

    Args:
        runs: Trainings; those with neither rare classes nor known wrong labels are left out.
        path: The PNG file to write.

    Returns:
        The file; None where there is nothing to show.
    """
    panels = [
        (title, members, pair)
        for pair in _PAIRS
        for title, members in by_settings(known(runs, pair[0][1]))
    ]  # fmt: skip
    if not panels:
        return None
    figure = new_figure(8.8, 3.4 * len(panels))
    for axes, (title, members, pair) in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels, strict=True):
        for (label, quantity), colour in zip(pair, (COLOURS[1], COLOURS[0]), strict=True):
            draw_lines(axes, members, quantity, label, colour)
        axes.set_ylabel("Mean weight")
        finish(axes, members, title, level=1.0)
        axes.margins(y=0.12)  # the line at 1 must not run through what is written below it
    return save(figure, path)
