"""``law-report``: figures and one page of runs that are there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from law_lightning.cli.app import launch

if TYPE_CHECKING:
    from omegaconf import DictConfig


def main() -> None:
    """Entry point of ``law-report``."""
    launch(report, "law_report")


def report(config: DictConfig) -> None:
    """Draw what the runs recorded, and gather tables and figures on one page."""
    from law_lightning.report.figure3 import draw_loss_gap
    from law_lightning.report.figure4 import draw_weights
    from law_lightning.report.page import write_page
    from law_lightning.report.runs import find_runs
    from law_lightning.report.theta_figure import draw_theta

    given = [config.runs] if isinstance(config.runs, str) else list(config.runs)
    runs = find_runs([Path(path) for path in given], None if config.rare is None else list(config.rare))
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    drawn = {
        "Loss gap (Figure 3)": draw_loss_gap(runs, out / "figure3.png"),
        "Mean weights (Figure 4)": draw_weights(runs, out / "figure4.png"),
        "The strategy's theta": draw_theta(runs, out / "theta.png"),
    }
    figures = {caption: path for caption, path in drawn.items() if path is not None}
    page = write_page(runs, figures, out / "report.html")
    print(f"{len(runs)} runs")
    for caption, path in figures.items():
        print(f"  {caption}: {path}")
    print(f"  page: {page}")
