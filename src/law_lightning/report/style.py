"""The look that all figures share."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

#: Colours that stay apart for colour-blind readers (Okabe and Ito, and a brown).
BASE_COLOUR = "#7f7f7f"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8B6508")


def new_figure(width: float, height: float) -> Figure:
    """A figure of this size in inches that draws without a screen."""
    return Figure(figsize=(width, height), layout="constrained")


def tidy(axes: Axes) -> None:
    """Take away what carries no information, and leave a faint grid for reading values."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)


def colour_of(position: int, method: str, baseline: str) -> str:
    """Grey for the baseline, a colour of its own for every other method."""
    return BASE_COLOUR if method == baseline else COLOURS[(position - 1) % len(COLOURS)]


def save(figure: Figure, path: Path) -> Path:
    """Write the figure as a PNG file."""
    figure.savefig(path, dpi=150)
    return path
