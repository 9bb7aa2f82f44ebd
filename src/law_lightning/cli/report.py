"""``law-report``: figures and one page of finished runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig

from law_lightning.cli.app import command
from law_lightning.report.page import write_page
from law_lightning.report.runs import find_runs
from law_lightning.report.stage_figures import draw_curves, draw_loss_gap, draw_theta, draw_weights


@command("law_report")
def main(config: DictConfig) -> None:
    """Draw what the runs recorded, and gather tables and figures on one page."""
    folders, rare = _listed(config.runs), _listed(config.rare)
    if not folders:
        raise ValueError("runs names no folder: name a run folder, a folder of them, or a list such as runs=[a,b].")
    for index in rare:
        if type(index) is not int:
            raise ValueError(f"rare holds {index!r}, but classes are whole numbers from 0 on, as in rare=[0,1].")
    out = Path(str(config.out))
    if config.out is None or (out.exists() and not out.is_dir()):
        raise ValueError(f"out={config.out} is not a folder: name an existing or a new one, such as out=report.")

    # Hydra reads a folder called 2026 as a number.
    runs = find_runs([Path(str(folder)) for folder in folders], None if config.rare is None else rare)
    out.mkdir(parents=True, exist_ok=True)
    drawn = {
        "Weights by loss and by margin": draw_curves(runs, out / "curves.png"),
        "Weights of classes and of labels (the paper's Figure 4)": draw_weights(runs, out / "figure4.png"),
        "Theta: with +, weights rise with the feature; with −, they fall": draw_theta(runs, out / "theta.png"),
        "Loss gap (the paper's Figure 3)": draw_loss_gap(runs, out / "figure3.png"),
    }
    figures = {caption: path for caption, path in drawn.items() if path is not None}
    print(f"{len(runs)} runs")
    for caption, path in {**figures, "page": write_page(runs, figures, out / "report.html")}.items():
        print(f"  {caption}: {path}")


def _listed(value: Any) -> list[Any]:
    """A list of the config, or one value as a list of its own; None as an empty list."""
    return list(value) if isinstance(value, ListConfig) else [] if value is None else [value]
