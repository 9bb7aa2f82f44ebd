"""The base of the corruptions: frozen settings, called with the true labels."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from law_lightning.data.corruption.record import CorruptionRecord


class Corruption:
    """A frozen dataclass that is called with true labels and returns what it did.

    It is deterministic: its settings, the seed among them, decide everything, and the global random state is neither
    read nor advanced. The labels given are not modified.

    A subclass replaces labels (:meth:`replace`), leaves samples out (:meth:`keep`), or both.
    """

    #: Name in the record.
    name: ClassVar[str]

    def __call__(
        self, labels: Tensor, num_classes: int, rows: Tensor | None = None, num_rows: int | None = None
    ) -> CorruptionRecord:
        """Corrupt the labels.

        Args:
            labels: True labels of the N training samples, int64 [N], each in [0, num_classes).
            num_classes: Number of classes C.
            rows: Which rows of the data set's training part these samples are, int64 [N]; None stands for all.
            num_rows: How many rows that part has.

        Raises:
            ValueError: The labels are not such a tensor, or do not fit the corruption's settings.
        """
        check_labels(labels, num_classes)
        kept = self.keep(labels, num_classes)
        true_labels = labels[kept].clone()  # the record stays true even if the caller writes into its labels
        replaced, selected = self.replace(true_labels, num_classes, None if rows is None else rows[kept], num_rows)
        return CorruptionRecord(
            labels=replaced,
            true_labels=true_labels,
            selected=selected.nonzero().flatten(),
            name=self.name,
            settings=self.settings(),
            kept=kept,
        )

    def keep(self, labels: Tensor, num_classes: int) -> Tensor:
        """Return the samples to keep, int64 [K], ascending."""
        return torch.arange(len(labels))

    def replace(
        self, labels: Tensor, num_classes: int, rows: Tensor | None, num_rows: int | None
    ) -> tuple[Tensor, Tensor]:
        """Return new labels, int64 [K], and which samples were selected, bool [K]."""
        return labels.clone(), torch.zeros(len(labels), dtype=torch.bool)

    def settings(self) -> dict[str, Any]:
        """The settings in plain Python."""
        return asdict(cast(Any, self))


def check_labels(labels: Tensor, num_classes: int) -> None:
    """Check that labels are int64 [N] in [0, num_classes)."""
    if num_classes < 1:
        raise ValueError(f"num_classes is {num_classes}, but it must be at least 1.")
    if labels.dtype != torch.int64 or labels.ndim != 1:
        raise ValueError(
            f"Labels must be an int64 tensor of shape [N], but they are {labels.dtype} of shape {list(labels.shape)}."
        )
    wrong = labels[(labels < 0) | (labels >= num_classes)]
    if len(wrong) > 0:
        raise ValueError(
            f"Found the label {int(wrong[0])}, but with num_classes={num_classes} labels must lie in "
            f"[0, {num_classes - 1}]."
        )


def check_class(index: int, num_classes: int, setting: str) -> None:
    """Check that a class named in a setting is one of the data set's."""
    if not 0 <= index < num_classes:
        raise ValueError(
            f"{setting} names class {index}, but the data set has the {num_classes} classes 0 to {num_classes - 1}."
        )
