"""The CSV files that the commands write, and read again: outcomes of trainings, stages of a training."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from law_lightning.utilities.files import write_whole

_NUMBER = (int, float)
#: What the figures and the page read from a stage; only what may be None may be missing.
_STAGE: dict[str, tuple[type, ...]] = {
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

    None becomes an empty cell, a list its JSON. The file is replaced in one step: an interruption leaves the
    previous one as it was.
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
                method=row["method"],
                seed=int(row["seed"]),
                acc_last=float(row["acc_last"]),
                acc_best=None if row["acc_best"] == "" else float(row["acc_best"]),
                best_epoch=None if row["best_epoch"] == "" else int(row["best_epoch"]),
            )
            for row in rows
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a table of outcomes. Delete it, or choose another folder.") from error


def read_history(path: Path) -> list[dict[str, Any]]:
    """Read the stages that ``law-train`` wrote: numbers, lists of numbers, and None for an empty cell.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not such a table.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, strict=True))
        if not rows:
            raise ValueError("it has no rows")
        return [_stage(row, f"row {number}") for number, row in enumerate(rows, start=1)]
    except (csv.Error, ValueError) as error:
        finding = "it is not a CSV table" if isinstance(error, (csv.Error, UnicodeDecodeError)) else error
        raise ValueError(
            f"{path} is not a history of stages, or it is damaged: {finding}. Train again with law-train, or leave "
            "the folder out."
        ) from error


def _stage(row: dict[str, str], place: str) -> dict[str, Any]:
    # DictReader puts surplus cells under the key None, and None into missing cells.
    if None in row or None in row.values():
        raise ValueError(f"{place} has more or fewer cells than the heading")
    try:
        record = {name: _value(cell) for name, cell in row.items()}
    except ValueError as error:
        raise ValueError(f"{place} holds what is neither a number nor a list of numbers") from error
    for name, kinds in _STAGE.items():
        if not isinstance(record.get(name), kinds):
            raise ValueError(f"{place} has no valid {name}")
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
