"""The look that all figures share."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

#: Inches: so wide that the text can be read on a telephone.
WIDTH = 4.8
#: Colours that colour-blind readers can tell apart (Okabe and Ito); none stands without a marker or dash of its own.
BASE_COLOUR = "#7f7f7f"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#000000", "#CC79A7")
MARKERS = ("o", "^", "s", "D", "v")
DASHES = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)))


def new_figure(height: float) -> Figure:
    """A figure of this height in inches that draws without a screen."""
    return Figure(figsize=(WIDTH, height), layout="constrained")


def tidy(axes: Axes, title: str = "", legend: int = 0) -> None:
    """Remove the upper and right edges, draw a faint grid unless there is an image, and put title and legend above.

    Args:
        axes: The axes.
        title: At the left edge.
        legend: Number of the legend's columns; 0 draws none.
    """
    axes.spines[["top", "right"]].set_visible(False)
    if not axes.images:
        axes.grid(color="0.9", linewidth=0.8)
        axes.set_axisbelow(True)
    lines = 0
    if legend:  # above the lines, which may go anywhere
        entries = len(axes.get_legend_handles_labels()[0])
        lines = -(-entries // legend)
        axes.legend(
            loc="lower left", bbox_to_anchor=(-0.02, 1.0), borderaxespad=0.2, frameon=False, fontsize=9,
            ncols=legend, columnspacing=1.2, handlelength=2.3,
        )  # fmt: skip
    axes.set_title(title, fontsize=10, loc="left", pad=6 + 15 * lines)


def save(figure: Figure, path: Path) -> Path:
    """Write the figure as a PNG file."""
    figure.savefig(path, dpi=160)
    return path
