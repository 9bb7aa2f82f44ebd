"""Results as lines of JSON, one for each task, method and search; a line is written as soon as it is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Row = dict[str, Any]
#: What says that two rows are of the same search.
Key = tuple[str, str, int, int, int, int]


def key_of(row: Row) -> Key:
    """Task, method, number of the search, budget, seeds of the evaluation, and draw of the data."""
    return row["task"], row["method"], row["search_seed"], row["budget"], row["eval_seeds"], row["draw"]


def read_rows(path: Path) -> list[Row]:
    """All finished rows; the half line that a stop may leave at the end is no row.

    Raises:
        ValueError: another line is damaged.
    """
    if not path.is_file():
        return []
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n")[:-1], start=1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(
                f"Line {number} of {path} is damaged: delete it, and its search will run again."
            ) from error
    return rows


def append_row(path: Path, row: Row) -> None:
    """Add a row, and take away half a line before it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        file.seek(0)
        content = file.read()
        if content and not content.endswith(b"\n"):
            file.truncate(content.rfind(b"\n") + 1)
        file.write(json.dumps(row).encode() + b"\n")
