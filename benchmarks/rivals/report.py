"""Table and figures of what a folder holds."""

from __future__ import annotations

from pathlib import Path

from rivals.figure import draw_task
from rivals.rows import Row
from rivals.summary import plain_training, summarise, verdicts
from rivals.table import document, write_csv


def write_report(rows: list[Row], folder: Path) -> str:
    """Write ``table.md``, ``table.csv`` and a figure for each task; the table's text is returned too.

    Args:
        rows: all of one budget and one number of evaluation seeds.
        folder: where to.
    """
    summaries = summarise(rows)
    plain = [plain_training(rows, key) for key in ("acc_last", "wrong_fitted")]
    text = document(summaries, verdicts(summaries), *plain)
    (folder / "table.md").write_text(text, encoding="utf-8")
    write_csv(summaries, folder / "table.csv")
    for task in dict.fromkeys(summary.task for summary in summaries):
        draw_task(task, rows, summaries, folder / f"{task}.png")
    return text
