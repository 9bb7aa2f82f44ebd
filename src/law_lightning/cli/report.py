"""``law-report``: figures and one page of runs that are there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

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

    out = _output(config.out)
    runs = find_runs(_folders(config.runs), _classes(config.rare))
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


def _listed(value: Any) -> list[Any]:
    """A list of the config, or one value as a list of its own."""
    from omegaconf import ListConfig

    return list(value) if isinstance(value, ListConfig) else [value]


def _folders(runs: Any) -> list[Path]:
    given = _listed(runs)
    if not given or None in given:
        raise ValueError("runs names no folder: give a run folder, one that holds some, or a list such as runs=[a,b].")
    return [Path(str(path)) for path in given]  # Hydra reads a folder called 2026 as a number


def _classes(rare: Any) -> list[int] | None:
    if rare is None:
        return None
    wrong = [index for index in _listed(rare) if type(index) is not int]
    if wrong:
        raise ValueError(f"rare holds {wrong[0]!r}, but classes are whole numbers from 0 on, as in rare=[0,1].")
    return _listed(rare)


def _output(out: Any) -> Path:
    path = Path(str(out))
    if out is None or (path.exists() and not path.is_dir()):
        raise ValueError(f"out={out} is no folder: name one that is there, or is to be made, such as out=report.")
    return path
