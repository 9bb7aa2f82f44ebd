"""The stages of a training, read back from its ``history.csv``."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

#: What every record has.
_NEEDED = ("stage", "weight_mean", "weight_per_class")


def read_history(path: Path) -> list[dict[str, Any]]:
    """Read the rows that ``law-train`` wrote: numbers, lists of numbers, and None for an empty cell.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not such a table.
    """
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    try:
        records = [{name: _value(cell) for name, cell in row.items()} for row in rows]
    except (TypeError, ValueError) as error:
        raise ValueError(_foreign(path)) from error
    if not records or any(name not in records[0] for name in _NEEDED):
        raise ValueError(_foreign(path))
    return records


def _value(cell: str) -> Any:
    if cell == "":
        return None
    return json.loads(cell) if cell.startswith("[") else float(cell)


def _foreign(path: Path) -> str:
    return f"{path} is not a history of stages, or it is damaged: train again with law-train, or leave the folder out."
