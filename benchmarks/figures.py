"""The figures of the documents, drawn again from the rows that are kept beside them.

    python benchmarks/figures.py

Only ``docs/general/epochs.png`` needs trainings (benchmarks/general.py --figure). The rows in ``docs/paper`` are the
stages of the trainings in docs/paper_results.md: 2026-11-29, commit ddb7a22.
"""

from __future__ import annotations

import csv
from itertools import groupby
from pathlib import Path

from law_lightning.report.compare_figure import draw_comparison
from law_lightning.report.records import read_outcomes
from law_lightning.report.runs import Run
from law_lightning.report.stage_figures import draw_loss_gap, draw_weights
from rivals.methods import BASE
from rivals.report import draw_learning, draw_task, read_rows, summarise

DOCS = Path(__file__).parents[1] / "docs"
#: The draws that the tables of docs/search.md report; other rows are of other questions.
DRAWS = {"digits": (1, 5, 6, 7, 8), "cifar": (0, 1)}


def main() -> None:
    """Draw them all."""
    for table in sorted((DOCS / "comparison").glob("*.csv")):
        print(draw_comparison(read_outcomes(table), table.with_suffix(".png")))
    for data, draws in DRAWS.items():
        rows = [row for row in read_rows(DOCS / "search" / f"{data}.jsonl") if row["draw"] in draws]
        summaries = [summary for summary in summarise(rows) if summary.method != BASE]
        for task, shown in groupby(summaries, lambda summary: summary.task):
            print(draw_task(task, [*shown], DOCS / "search" / f"{task}.png"))
    trainings = [Run(Path(row.pop("folder")), "train", **row) for row in read_rows(DOCS / "paper" / "stages.jsonl")]
    print(draw_loss_gap(trainings, DOCS / "paper" / "figure3.png"))
    print(draw_weights(trainings, DOCS / "paper" / "figure4.png"))
    with (DOCS / "search" / "paper_agent.csv").open(newline="") as file:
        rows = [*csv.DictReader(file)]
    curves = {
        agent: [
            [(float(row["episodes"]), float(row["gain_points"])) for row in of_seed]
            for _, of_seed in groupby(of_agent, lambda row: row["seed"])
        ]
        for agent, of_agent in groupby(rows, lambda row: row["agent"])
    }
    print(draw_learning(curves, DOCS / "search" / "paper_agent.png"))


if __name__ == "__main__":
    main()
