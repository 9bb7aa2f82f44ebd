"""Several corruptions in a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from law_lightning.data.corruption.base import Corruption, check_labels, check_rows, plain_tuple
from law_lightning.data.corruption.record import CorruptionRecord


@dataclass(frozen=True)
class Compose(Corruption):
    """One corruption after the other, each on what the former left.

    The record's true labels are those from before all of them; a sample counts as selected if any of them selected
    it.

    Attributes:
        corruptions: One or more.
    """

    corruptions: Sequence[Corruption]

    def __post_init__(self) -> None:
        self._set(corruptions=plain_tuple(self.corruptions, "corruptions"))
        if not self.corruptions:
            raise ValueError("corruptions is empty: name at least one, or take no corruption at all.")
        for place, each in enumerate(self.corruptions, start=1):
            if not isinstance(each, Corruption):
                raise ValueError(
                    f"Number {place} of corruptions is {each!r}, but each must be a Corruption: derive your own from "
                    "law_lightning.data.Corruption."
                )

    @property
    def name(self) -> str:
        """The names of all, joined."""
        return "+".join(each.name for each in self.corruptions)

    def settings(self) -> dict[str, Any]:
        """The settings of each, by its place and name."""
        return {f"{place} {each.name}": each.settings() for place, each in enumerate(self.corruptions, start=1)}

    def __call__(
        self, labels: Tensor, num_classes: int, rows: Tensor | None = None, num_rows: int | None = None
    ) -> CorruptionRecord:
        """Corrupt the labels."""
        check_labels(labels, num_classes)
        # Each step is told its rows, also where none were given: it may see only part of the samples.
        rows, num_rows = check_rows(rows, num_rows, labels)
        kept, present = torch.arange(len(labels), device=labels.device), labels.clone()
        selected = torch.zeros_like(labels, dtype=torch.bool)
        for corruption in self.corruptions:
            record = corruption(present, num_classes, rows[kept], num_rows)
            present, kept, selected = record.labels, kept[record.kept], selected[record.kept]
            selected[record.selected] = True
        return CorruptionRecord(
            labels=present,
            true_labels=labels[kept],
            selected=selected.nonzero().flatten(),
            name=self.name,
            settings=self.settings(),
            kept=kept,
        )
