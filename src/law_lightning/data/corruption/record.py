"""What a corruption did, kept for analysis."""

from __future__ import annotations

import io
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from law_lightning.utilities.files import write_whole

_FORMAT = "law_lightning.corruption_record.v2"


@dataclass(frozen=True, eq=False)
class CorruptionRecord:
    """What a corruption did to the training data. For analysis only: it holds the true labels.

    Attributes:
        labels: The labels the network trains on, int64 [K], of the K samples that were kept.
        true_labels: The labels of those samples before the corruption, int64 [K].
        selected: Which of the K samples the corruption chose, int64 [S], ascending: those whose label is now
            wrong, and those that got their true label again.
        name: Name of the corruption.
        settings: Its settings, in plain Python.
        kept: Which of the N samples given were kept, int64 [K], ascending.

    Raises:
        ValueError: The tensors do not fit together.
    """

    labels: Tensor
    true_labels: Tensor
    selected: Tensor
    name: str
    settings: dict[str, Any]
    kept: Tensor

    def __post_init__(self) -> None:
        size = len(self.kept)
        for labels in (self.labels, self.true_labels):
            if labels.shape != (size,) or labels.dtype != torch.int64:
                raise ValueError(
                    f"The corruption returned labels of shape {list(labels.shape)} and {labels.dtype}, but the {size} "
                    f"training samples it kept need int64 labels of shape [{size}]."
                )
        for name in ("kept", "selected"):
            each = getattr(self, name)
            if each.dtype != torch.int64 or each.ndim != 1 or (each < 0).any() or (each.diff() <= 0).any():
                raise ValueError(f"{name} of a corruption must be ascending indices, int64 of one dimension.")
        if (self.selected >= size).any():
            raise ValueError(f"selected of a corruption must be below {size}, the number of samples that it kept.")

    @property
    def indices(self) -> Tensor:
        """Which of the K samples have a wrong label, int64 [M], ascending."""
        return (self.labels != self.true_labels).nonzero().flatten()

    def save(self, path: str | Path) -> None:
        """Write the record to ``path``: tensors and plain Python values only.

        Raises:
            OSError: It cannot be written.
        """
        content = io.BytesIO()  # writing to a full disk, torch raises no OSError
        torch.save({"format": _FORMAT} | {field.name: getattr(self, field.name) for field in fields(self)}, content)
        write_whole(path, content.getbuffer())

    @classmethod
    def load(cls, path: str | Path) -> CorruptionRecord:
        """Read a record that :meth:`save` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is damaged or holds something else.
        """
        try:
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
            if content.pop("format") != _FORMAT:
                raise ValueError("another format")
            return cls(**content)
        except OSError:
            raise  # its message names a missing or unreadable file
        except Exception as error:  # bytes that are no record can fail in any way
            raise ValueError(
                f"{path} is no corruption record of this version, or is damaged ({type(error).__name__}: {error}). "
                "Give a file that CorruptionRecord.save wrote, or run the corruption again: its seed gives the same."
            ) from error
