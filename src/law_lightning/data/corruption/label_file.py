"""Labels from a file: those that people gave, or another model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from law_lightning.data.corruption.base import Corruption


@dataclass(frozen=True)
class LabelFile(Corruption):
    """The labels of a file take the place of the data set's own, for instance CIFAR-N's human labels.

    The file has one label for each row of the data set's whole training part, in its order: ``.npy``; ``.npz`` and
    ``.pt``, with a key if they hold several; ``.txt`` or ``.csv`` with one integer a line.

    Attributes:
        path: The file.
        key: Which of its arrays.
    """

    name: ClassVar[str] = "label_file"

    path: str | Path
    key: str | None = None

    def settings(self) -> dict[str, Any]:
        """The settings in plain Python."""
        return {"path": str(self.path), "key": self.key}

    def replace(
        self, labels: Tensor, num_classes: int, rows: Tensor | None = None, num_rows: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the file's labels, and which of them differ."""
        given = read_labels(Path(self.path), self.key)
        expected = len(labels) if rows is None or num_rows is None else num_rows
        if len(given) != expected:
            raise ValueError(
                f"{self.path} has {len(given)} labels, but the training part of the data set has {expected} samples: "
                "give one label for each, in the data set's order."
            )
        chosen = given if rows is None else given[rows]
        wrong = chosen[(chosen < 0) | (chosen >= num_classes)]
        if len(wrong) > 0:
            raise ValueError(
                f"{self.path} has the label {int(wrong[0])}, but the data set has the {num_classes} classes 0 to "
                f"{num_classes - 1}."
            )
        return chosen.clone(), chosen != labels


def read_labels(path: Path, key: str | None = None) -> Tensor:
    """Read labels, int64 [N]; nothing in the file is ever executed.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, of an unknown kind, has no such key, or holds no integers of shape [N].
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no label file at {path.absolute()}: check the path.")
    readers = {".npy": _read_numpy, ".npz": _read_numpy, ".pt": _read_torch, ".txt": _read_text, ".csv": _read_text}
    if path.suffix not in readers:
        raise ValueError(f"{path} is of an unknown kind: labels are read from {', '.join(readers)}.")
    try:
        content = readers[path.suffix](path)
    except Exception as error:  # damaged bytes can fail in any way inside a reader
        raise ValueError(
            f"{path} cannot be read as labels: it is damaged, holds Python objects, or is another kind of file."
        ) from error
    array = np.asarray(_entry(content, path, key))
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(
            f"The labels in {path} have shape {list(array.shape)} and dtype {array.dtype}, but they must be integers "
            "of shape [N]."
        )
    return torch.from_numpy(array.astype(np.int64))


def _entry(content: Any, path: Path, key: str | None) -> Any:
    if not isinstance(content, dict):
        if key is not None:
            raise ValueError(f"{path} holds a single array, so it has no key {key!r}: leave key out.")
        return content
    if key is None and len(content) == 1:
        return next(iter(content.values()))
    if key not in content:
        asked = "several arrays" if key is None else f"no array {key!r}"
        raise ValueError(f"{path} holds {asked}: give key, one of {sorted(map(str, content))}.")
    return content[key]


def _read_numpy(path: Path) -> Any:
    content = np.load(path, allow_pickle=False)
    if isinstance(content, np.lib.npyio.NpzFile):
        with content:
            return {name: content[name] for name in content.files}
    return content


def _read_torch(path: Path) -> Any:
    # CIFAR-N's own file holds NumPy arrays: these, and nothing else, are allowed beside tensors.
    arrays = [np.ndarray, np.dtype, np.empty(0).__reduce__()[0], *{type(np.dtype(kind)) for kind in "bBhHiIlLqQ"}]
    named: list[Any] = [*arrays, (arrays[2], "numpy.core.multiarray._reconstruct")]
    with torch.serialization.safe_globals(named):
        return torch.load(path, map_location="cpu", weights_only=True)


def _read_text(path: Path) -> Any:
    return np.array([int(line) for line in path.read_text(encoding="utf-8").split()], dtype=np.int64)
