"""Labels from a file: those that people gave, or another model."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from law_lightning.data.corruption.base import Corruption
from law_lightning.data.npz import labels_tensor, load_numpy


@dataclass(frozen=True)
class LabelFile(Corruption):
    """The labels of a file take the place of the data set's own, for instance CIFAR-N's human labels.

    The file has one label for each row of the data set's whole training part, in its order: ``.npy``; ``.npz`` and
    ``.pt``, with a key if they hold several; ``.txt`` or ``.csv`` with one integer a line.

    Attributes:
        path: The file.
        key: Which of its arrays.
    """

    name = "label_file"

    path: str | Path
    key: str | None = None

    def settings(self) -> dict[str, Any]:
        """The settings in plain Python."""
        return {"path": str(self.path), "key": self.key}

    def replace(self, labels: Tensor, num_classes: int, rows: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
        """Return the file's labels, and which of them differ."""
        given = read_labels(Path(self.path), self.key)
        if len(given) != num_rows:
            raise ValueError(
                f"{self.path} has {len(given)} labels, but the training part of the data set has {num_rows} samples: "
                "give one label for each, in the data set's order."
            )
        wrong = (given >= num_classes).nonzero().flatten()
        if len(wrong) > 0:
            row = int(wrong[0])
            raise ValueError(
                f"Row {row} (from 0) of {self.path} has the label {int(given[row])}, but the data set has the "
                f"{num_classes} classes 0 to {num_classes - 1}."
            )
        chosen = given[rows]
        return chosen, chosen != labels


def read_labels(path: Path, key: str | None = None) -> Tensor:
    """Read labels, int64 [N]; nothing in the file is ever executed.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, of an unknown kind, has no such key, or holds no integers of shape [N].
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no label file at {path.absolute()}: check the path.")
    readers = {".npy": load_numpy, ".npz": load_numpy, ".pt": _load_torch, ".txt": _load_text, ".csv": _load_text}
    read = readers.get(path.suffix.lower())
    if read is None:
        raise ValueError(f"{path} is of an unknown kind: labels are read from {', '.join(readers)}.")
    labels = _choose(read(path), path, key)
    if not isinstance(labels, np.ndarray):
        raise ValueError(f"{path} holds a {type(labels).__name__}, but labels must be an array or a tensor.")
    return labels_tensor(labels, f"The array of labels in {path}")


def _choose(content: Any, path: Path, key: str | None) -> Any:
    if not isinstance(content, dict):
        if key is not None:
            raise ValueError(f"{path} holds a single array, so it has no key {key!r}: leave key out.")
        return content
    if key is None and len(content) == 1:
        return next(iter(content.values()))
    if key not in content:
        asked = "several arrays, or none" if key is None else f"no array {key!r}"
        raise ValueError(f"{path} holds {asked}: give key, one of {sorted(map(str, content))}.")
    return content[key]


def _load_text(path: Path) -> Any:
    lines = path.read_text(encoding="utf-8", errors="replace").rstrip().splitlines()
    for number, line in enumerate(lines, start=1):
        if not re.fullmatch(r"\s*-?[0-9]{1,18}\s*", line):
            raise ValueError(
                f"Line {number} of {path} is {line[:40]!r}, but each must hold one integer: the label of one sample."
            )
    return np.array([int(line) for line in lines], dtype=np.int64)


def _load_torch(path: Path) -> Any:
    # CIFAR-N's own file holds NumPy arrays. NumPy's own classes would let a hostile file forge pointers (an array of
    # objects over any bytes), so stand-ins take their names, in NumPy 1 and in NumPy 2.
    names = {
        "numpy.dtype": _PickledDtype,
        "numpy.ndarray": _PickledArray,
        "numpy.core.multiarray._reconstruct": _PickledArray,
        "numpy._core.multiarray._reconstruct": _PickledArray,
    }
    try:
        with torch.serialization.safe_globals([(stand_in, name) for name, stand_in in names.items()]):
            content = torch.load(path, map_location="cpu", weights_only=True)
        size = path.stat().st_size
        if isinstance(content, dict):
            return {name: _to_numpy(value, size) for name, value in content.items()}
        return _to_numpy(content, size)
    except PermissionError:
        raise
    except Exception as error:  # damaged bytes can fail in any way inside a reader
        raise ValueError(
            f"{path} cannot be read: it is damaged, holds Python objects, or is another kind of file."
        ) from error


def _to_numpy(value: Any, size: int) -> Any:
    if isinstance(value, Tensor):
        if value.numel() > size:  # one number may stand for any number of them
            raise ValueError(f"it claims to hold {value.numel()} numbers, more than there is room for in it")
        return (value.double() if value.is_floating_point() else value).numpy()  # NumPy knows no bfloat16
    return value.to_numpy() if isinstance(value, _PickledArray) else value


class _PickledDtype:
    """What a pickle says about a dtype: its code, such as ``i8``, and its byte order."""

    def __init__(self, code: str, *_: object) -> None:
        self.code = code

    def __setstate__(self, state: Any) -> None:
        self.code = state[1] + self.code


class _PickledArray:
    """What a pickle says about an array; only numbers become one."""

    state: Any = None

    def __init__(self, *_: object) -> None:
        pass  # the pickle gives NumPy's class and an empty shape here, and the content as the state

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def to_numpy(self) -> Any:
        _, shape, dtype, by_columns, content = self.state
        if not re.fullmatch(r"[<>|=][biuf][1248]", dtype.code):
            raise ValueError(f"an array of {dtype.code}, not of numbers")
        return np.frombuffer(content, dtype.code).reshape(shape, order="F" if by_columns else "C")
