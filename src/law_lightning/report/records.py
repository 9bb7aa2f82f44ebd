"""The CSV files that the commands write and read again."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from law_lightning.utilities.files import write_whole


@dataclass(frozen=True)
class Outcome:
    """The result of one training of a comparison.

    Attributes:
        method: Name of the method.
        seed: Seed of the training.
        acc_last: Test accuracy after the last epoch, in [0, 1].
        acc_best: Test accuracy after the epoch with the best validation accuracy, in [0, 1]; None without
            validation data.
        best_epoch: That epoch, counted from 0; None without validation data.
    """

    method: str
    seed: int
    acc_last: float
    acc_best: float | None
    best_epoch: int | None


def write_rows(rows: Iterable[Mapping[str, object]], path: Path) -> None:
    """Write a CSV table whose columns are the keys of all rows, in order of appearance.

    None becomes an empty cell, a list its JSON. The file is replaced in one step: after an interruption the
    previous one is unchanged.
    """
    cells = [
        {key: json.dumps(value) if isinstance(value, list) else value for key, value in row.items()} for row in rows
    ]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in cells for key in row)))
    writer.writeheader()
    writer.writerows(cells)
    write_whole(path, text.getvalue().encode())


def read_outcomes(path: Path) -> list[Outcome]:
    """Read the outcomes that ``law-compare`` wrote.

    Raises:
        ValueError: The file is not such a table.
    """
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    try:
        return [
            Outcome(
                *(row["method"], int(row["seed"]), float(row["acc_last"]), _value(row["acc_best"])),
                best_epoch=int(row["best_epoch"]) if row["best_epoch"] else None,
            )
            for row in rows
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a table of outcomes. Delete it, or choose another folder.") from error


def read_numbers(path: Path, needed: Mapping[str, type]) -> list[dict[str, Any]]:
    """Read a table of a run: numbers, lists of numbers, and None for an empty cell.

    Args:
        path: The file.
        needed: Columns that it must have, with the type of their cells.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not such a table.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [{name: _value(cell) for name, cell in row.items()} for row in csv.DictReader(file, strict=True)]
        if not rows or not all(isinstance(row[name], kind) for row in rows for name, kind in needed.items()):
            raise ValueError(f"Not every row has {', '.join(needed)}.")
    except (csv.Error, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not the table of a run, or it is damaged: leave its folder out.") from error
    return rows


def _value(cell: Any) -> Any:
    """What a cell holds; a TypeError for a surplus or a missing one, which is no text."""
    if cell in ("", "None"):
        return None
    return json.loads(cell) if cell[:1] == "[" else float(cell)
