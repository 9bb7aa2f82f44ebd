"""What a corruption did, kept for analysis."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_FORMAT = "law_lightning.corruption_record.v2"
_FORMER_FORMAT = "law_lightning.corruption_record.v1"
_KINDS: dict[str, type] = {
    "labels": Tensor,
    "true_labels": Tensor,
    "selected": Tensor,
    "name": str,
    "settings": dict,
    "kept": Tensor,
}


@dataclass(frozen=True, eq=False)
class CorruptionRecord:
    """What a corruption did to the training data. For analysis only: it holds the true labels.

    Attributes:
        labels: The labels the network trains on, int64 [K], of the K samples that were kept.
        true_labels: The labels of those samples before the corruption, int64 [K].
        selected: Which of the K samples the corruption chose, int64 [S], ascending: those whose label is now
            wrong, and those whose true class came back.
        name: Name of the corruption.
        settings: Its settings, in plain Python.
        kept: Which of the N samples given were kept, int64 [K], ascending.
    """

    labels: Tensor
    true_labels: Tensor
    selected: Tensor
    name: str
    settings: dict[str, Any]
    kept: Tensor

    @property
    def indices(self) -> Tensor:
        """Which of the K samples have a wrong label, int64 [M], ascending."""
        return (self.labels != self.true_labels).nonzero().flatten()

    def save(self, path: str | Path) -> None:
        """Write the record to ``path``: tensors and plain Python values only."""
        torch.save({"format": _FORMAT, **{name: getattr(self, name) for name in _KINDS}}, path)

    @classmethod
    def load(cls, path: str | Path) -> CorruptionRecord:
        """Read a record that :meth:`save` wrote.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is damaged or holds something else.
        """
        try:
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
        except OSError:
            raise  # a missing or unreadable file says so itself
        except Exception as error:  # bytes that are no record can fail in any way inside the unpickler
            raise ValueError(
                f"{path} cannot be read as a corruption record: it is damaged or another kind of file. "
                "Write it again with CorruptionRecord.save."
            ) from error
        if isinstance(content, dict) and content.get("format") == _FORMER_FORMAT:
            raise ValueError(
                f"{path} is a corruption record of an earlier version, which this one does not read. Run the "
                "corruption again: its seed brings the same labels."
            )
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise ValueError(
                f"{path} is readable but holds no corruption record. Give a file that CorruptionRecord.save wrote."
            )
        wrong = [name for name, kind in _KINDS.items() if not isinstance(content.get(name), kind)]
        if wrong:
            raise ValueError(
                f"{path} is a damaged corruption record: the fields {wrong} are missing or of the wrong "
                "type. Write it again with CorruptionRecord.save."
            )
        record = cls(**{name: content[name] for name in _KINDS})
        if not record._is_consistent():
            raise ValueError(
                f"{path} is a damaged corruption record: its tensors do not fit together. Write it again with "
                "CorruptionRecord.save."
            )
        return record

    def _is_consistent(self) -> bool:
        tensors = (self.labels, self.true_labels, self.selected, self.kept)
        if any(each.dtype != torch.int64 or each.ndim != 1 for each in tensors):
            return False
        if len({len(self.labels), len(self.true_labels), len(self.kept)}) > 1:
            return False
        if (torch.stack([self.labels, self.true_labels]) < 0).any():
            return False
        if (self.selected >= len(self.labels)).any():
            return False
        return _are_indices(self.kept) and _are_indices(self.selected)


def _are_indices(values: Tensor) -> bool:
    return bool((values >= 0).all() and (values.diff() > 0).all())
