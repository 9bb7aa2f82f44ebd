"""The stages of a training, read back from its ``history.csv``."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import NoneType
from typing import Any

_NUMBER = (int, float)
#: What the figures and the page read from a record; only what may be None may be missing.
_KINDS: dict[str, tuple[type, ...]] = {
    "stage": _NUMBER,
    "accuracy": _NUMBER,
    "weight_mean": _NUMBER,
    "weight_per_class": (list,),
    "theta": (list, NoneType),
    "loss_gap": (*_NUMBER, NoneType),
    "weighted_loss_gap": (*_NUMBER, NoneType),
    "weight_clean": (*_NUMBER, NoneType),
    "weight_wrong": (*_NUMBER, NoneType),
}


def read_history(path: Path) -> list[dict[str, Any]]:
    """Read the rows that ``law-train`` wrote: numbers, lists of numbers, and None for an empty cell.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not such a table.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, strict=True))
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(_foreign(path, "it is no CSV table")) from error
    if not rows:
        raise ValueError(_foreign(path, "it has no rows"))
    return [_record(row, f"row {number}", path) for number, row in enumerate(rows, start=1)]


def _record(row: dict[str, str], place: str, path: Path) -> dict[str, Any]:
    # DictReader files surplus cells under None, and fills up missing ones with it.
    if None in row or None in row.values():
        raise ValueError(_foreign(path, f"{place} has more or fewer cells than the heading"))
    try:
        record = {name: _value(cell) for name, cell in row.items()}
    except ValueError as error:
        raise ValueError(_foreign(path, f"{place} holds what is neither a number nor a list of numbers")) from error
    wrong = [name for name, kinds in _KINDS.items() if not isinstance(record.get(name), kinds)]
    if wrong:
        raise ValueError(_foreign(path, f"{place} has no proper {wrong[0]}"))
    return record


def _value(cell: str) -> Any:
    if cell in ("", "None"):
        return None
    if cell.startswith("["):
        entries = json.loads(cell)
        if not all(isinstance(entry, (*_NUMBER, NoneType)) for entry in entries):
            raise ValueError(cell)
        return entries
    try:
        return int(cell)
    except ValueError:
        return float(cell)


def _foreign(path: Path, finding: str) -> str:
    return (
        f"{path} is not a history of stages, or it is damaged: {finding}. Train again with law-train, or leave the "
        "folder out."
    )
