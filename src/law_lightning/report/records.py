"""Outcomes of trainings, and their CSV file."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path


@dataclass(frozen=True)
class Outcome:
    """What one training of a comparison ended with.

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


def write_outcomes(outcomes: Iterable[Outcome], path: Path) -> None:
    """Write one row per outcome; the file is replaced in one step, so a kill leaves no half of it."""
    partial = path.with_suffix(path.suffix + ".partial")
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Outcome)])
        writer.writeheader()
        writer.writerows(asdict(outcome) for outcome in outcomes)
    partial.replace(path)


def read_outcomes(path: Path) -> list[Outcome]:
    """Read the rows that :func:`write_outcomes` wrote.

    Raises:
        ValueError: If the file is not such a table.
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


def write_rows(rows: Iterable[dict[str, object]], path: Path) -> None:
    """Write dictionaries as a CSV table whose columns are all their keys, in order of appearance; lists as JSON."""
    rows = [
        {key: json.dumps(value) if isinstance(value, list) else value for key, value in row.items()} for row in rows
    ]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
