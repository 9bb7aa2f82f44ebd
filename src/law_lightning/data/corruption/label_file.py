"""Labels from a file: given by people, or by another model."""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from law_lightning.data.corruption.base import Corruption
from law_lightning.data.npz import labels_tensor, load_numpy, reading


@dataclass(frozen=True)
class LabelFile(Corruption):
    """The labels of a file take the place of the data set's own, for instance CIFAR-N's human labels.

    The file has one label for each row of the data set's whole training part, in its order: ``.npy``; ``.npz`` and
    ``.pt``, with a key if they hold several; ``.txt`` or ``.csv`` with one integer a line. There is a warning where
    labels agree with the data set's own hardly more often than by chance, or where most classes do not occur.

    Attributes:
        path: The file.
        key: The name of the array in it.
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
        if int(given.max()) >= num_classes:
            raise ValueError(
                f"Row {int(given.argmax())} (from 0) of {self.path} has the label {int(given.max())}, but the data set "
                f"has the {num_classes} classes 0 to {num_classes - 1}."
            )
        chosen = given[rows]
        sizes, theirs, right = (x.bincount(minlength=num_classes) for x in (labels, chosen, labels[labels == chosen]))
        agreement, by_chance = float(right.sum()) / len(labels), float(sizes @ theirs) / len(labels) ** 2
        pairs, number = (labels * num_classes + chosen).unique(return_counts=True)
        most = torch.zeros_like(sizes).scatter_reduce(0, pairs // num_classes, number, "amax")
        large = sizes >= 10
        moved, own = int((right < most)[large].sum()), int(large.sum())
        # Cohen's kappa is near 0 where the order does not fit; it may be larger where only some classes do not.
        if agreement < by_chance + 0.1 * (1 - by_chance) or moved > own / 2:
            rank_zero_warn(
                f"{1 - agreement:.1%} of the labels in {self.path} differ from the data set's own (in random order "
                f"{1 - by_chance:.1%} would), and of {moved} of {own} classes with 10 samples or more another label is "
                "the most frequent. Check that the file has the data set's order, and its classes the same numbers."
            )
        if (present := len(given.unique())) < num_classes / 2:
            rank_zero_warn(
                f"Only {present} of the data set's {num_classes} classes occur in {self.path}"
                f"{'' if self.key is None else f' ({self.key})'}: check that its labels are of these classes."
            )
        return chosen, chosen != labels


def read_labels(path: Path, key: str | None = None) -> Tensor:
    """Read labels, int64 [N]; nothing in the file is ever executed.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, of an unknown kind, has no such key, or holds no integers of shape [N].
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no label file at {path.absolute()}: check the path.")
    arrays, text = dict.fromkeys((".npy", ".npz"), load_numpy), dict.fromkeys((".txt", ".csv"), _load_text)
    readers: dict[str, Any] = {**arrays, ".pt": _load_torch, **text}
    read = readers.get(path.suffix.lower())
    if read is None:
        raise ValueError(f"{path} is of an unknown kind: labels are read from {', '.join(readers)}.")
    with reading(path):
        content: Any = read(path)
    if isinstance(content, dict):
        if key is None and len(content) == 1:
            key = next(iter(content))
        if key not in content:
            raise ValueError(f"{path} holds no array {key!r}: give as key one of {sorted(map(str, content))}.")
        content = content[key]
    elif key is not None:
        raise ValueError(f"{path} holds a single array, so it has no key {key!r}: leave key out.")
    # An expanded tensor may be of any size, and NumPy does not have all of torch's floats.
    if isinstance(content, Tensor) and content.is_contiguous() and not content.is_floating_point():
        content = content.numpy()
    if not isinstance(content, np.ndarray):
        raise ValueError(
            f"{path} holds a {type(content).__name__}, but labels must be an array or a contiguous tensor of integers."
        )
    return labels_tensor(content, f"The array of labels in {path}")


def _load_text(path: Path) -> npt.NDArray[np.int64]:
    """Text with or without a byte order mark, as UTF-8 or, with one, UTF-16."""
    with path.open("rb") as file:
        marked = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    return np.loadtxt(path, dtype=np.int64, ndmin=2, encoding="utf-16" if marked else "utf-8-sig")


class _Pickled:
    """Stands in for NumPy's classes in a ``.pt`` file.

    NumPy's own would let a hostile file make an array of objects whose addresses the file chooses.
    """

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state

    def to_numpy(self) -> npt.NDArray[Any]:
        """The array; numpy.frombuffer refuses objects."""
        _, shape, dtype, by_columns, content = self.state
        byte_order, code = dtype.state[1], dtype.arguments[0]
        return np.frombuffer(content, byte_order + code).reshape(shape, order="F" if by_columns else "C")


def _load_torch(path: Path) -> Any:
    # CIFAR-N's own file holds NumPy arrays, pickled under the name that NumPy 1 gave their constructor.
    names = ("numpy.dtype", "numpy.ndarray", *(f"numpy.{core}.multiarray._reconstruct" for core in ("core", "_core")))
    with torch.serialization.safe_globals([(_Pickled, name) for name in names]):
        content = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(content, dict):
        return {key: value.to_numpy() if isinstance(value, _Pickled) else value for key, value in content.items()}
    return content.to_numpy() if isinstance(content, _Pickled) else content
