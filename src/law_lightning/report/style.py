"""The look that all figures share."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

#: Colours that colour-blind readers can tell apart (Okabe and Ito, and a brown).
BASE_COLOUR = "#7f7f7f"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8B6508")


def new_figure(width: float, height: float) -> Figure:
    """A figure of this size in inches that draws without a screen."""
    return Figure(figsize=(width, height), layout="constrained")


def tidy(axes: Axes) -> None:
    """Remove the upper and right edges, and draw a faint grid for reading values."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)


def save(figure: Figure, path: Path) -> Path:
    """Write the figure as a PNG file."""
    figure.savefig(path, dpi=150)
    return path
