"""Table and figures of what a folder holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rivals.figure import draw_task
from rivals.methods import BASE
from rivals.rows import Row
from rivals.summary import memorised, summarise, verdicts
from rivals.table import document, write_csv


def write_report(rows: list[Row], folder: Path) -> str:
    """Write ``table.md``, ``table.csv`` and a figure for each task; the table's text is returned too.

    Args:
        rows: all of one budget and one number of evaluation seeds.
        folder: where to.
    """
    summaries = summarise(rows)
    accuracies = {row["task"]: float(np.mean(row["acc_last"])) for row in rows if row["method"] == BASE}
    text = document(summaries, verdicts(summaries), accuracies, memorised(rows))
    (folder / "table.md").write_text(text, encoding="utf-8")
    write_csv(summaries, folder / "table.csv")
    for task in dict.fromkeys(summary.task for summary in summaries):
        draw_task(task, rows, summaries, folder / f"{task}.png")
    return text
