"""Several corruptions in a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from law_lightning.data.corruption.base import Corruption, check_labels
from law_lightning.data.corruption.record import CorruptionRecord


@dataclass(frozen=True)
class Compose(Corruption):
    """One corruption after the other, each on what the former left.

    The record's true labels are those from before all of them.

    Attributes:
        corruptions: One or more.
    """

    corruptions: Sequence[Corruption]

    def __post_init__(self) -> None:
        object.__setattr__(self, "corruptions", tuple(self.corruptions))
        if not self.corruptions:
            raise ValueError("corruptions is empty: name at least one, or take no corruption at all.")

    def settings(self) -> dict[str, Any]:
        """The settings of each, by its place and name."""
        return {f"{place} {each.name}": each.settings() for place, each in enumerate(self.corruptions, start=1)}

    def __call__(
        self, labels: Tensor, num_classes: int, rows: Tensor | None = None, num_rows: int | None = None
    ) -> CorruptionRecord:
        """Corrupt the labels."""
        check_labels(labels, num_classes)
        kept, present = torch.arange(len(labels)), labels
        selected = torch.zeros(len(labels), dtype=torch.bool)
        for corruption in self.corruptions:
            record = corruption(present, num_classes, None if rows is None else rows[kept], num_rows)
            present, kept, selected = record.labels, kept[record.kept], selected[record.kept]
            selected[record.selected] = True
        return CorruptionRecord(
            labels=present,
            true_labels=labels[kept].clone(),
            selected=selected.nonzero().flatten(),
            name="+".join(each.name for each in self.corruptions),
            settings=self.settings(),
            kept=kept,
        )
