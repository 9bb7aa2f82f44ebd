"""The base of the corruptions: frozen settings, called with the true labels; and several in sequence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from numbers import Integral, Real
from typing import Any, cast

import torch
from torch import Tensor

from law_lightning.data.corruption.record import CorruptionRecord


class Corruption:
    """A frozen dataclass that is called with true labels and returns what it did.

    It is deterministic: its settings, the seed among them, decide everything, and the global random state is neither
    read nor advanced. The labels given are not modified.

    A subclass replaces labels (:meth:`replace`), leaves samples out (:meth:`keep`), or both.
    """

    @property
    def name(self) -> str:
        """Name in the record."""
        return type(self).__name__

    def __call__(
        self, labels: Tensor, num_classes: int, rows: Tensor | None = None, num_rows: int | None = None
    ) -> CorruptionRecord:
        """Corrupt the labels.

        Args:
            labels: True labels of the N training samples, int64 [N] on the CPU, each in [0, num_classes).
            num_classes: Number of classes C.
            rows: Which rows of the data set's training part these samples are, int64 [N].
            num_rows: How many rows that part has; without both, the samples are the whole part.

        Raises:
            ValueError: The labels are not such a tensor, or do not fit the corruption's settings.
        """
        check_labels(labels, num_classes)
        if rows is None or num_rows is None:
            rows, num_rows = torch.arange(len(labels)), len(labels)
        kept = self.keep(labels, num_classes)
        true_labels = labels[kept]  # a copy: the record stays true even if the caller writes into its labels
        replaced, selected = self.replace(true_labels.clone(), num_classes, rows[kept], num_rows)
        return CorruptionRecord(
            replaced, true_labels, selected.nonzero().flatten(), self.name, self.settings(), kept
        )  # fmt: skip

    def keep(self, labels: Tensor, num_classes: int) -> Tensor:
        """Return the samples to keep, int64 [K], ascending."""
        return torch.arange(len(labels))

    def replace(self, labels: Tensor, num_classes: int, rows: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
        """Return new labels, int64 [K], and which samples were selected, bool [K].

        Args:
            labels: Labels of the samples kept, int64 [K].
            num_classes: Number of classes C.
            rows: Which rows of the data set's training part they are, int64 [K].
            num_rows: How many rows that part has.
        """
        return labels, torch.zeros(len(labels), dtype=torch.bool)

    def settings(self) -> dict[str, Any]:
        """The settings in plain Python."""
        return asdict(cast(Any, self))

    def _set(self, **settings: Any) -> None:
        """Replace the values given by checked ones, in ``__post_init__``."""
        for name, value in settings.items():
            object.__setattr__(self, name, value)


@dataclass(frozen=True)
class Compose(Corruption):
    """Corruptions in sequence, each applied to the result of the one before.

    The record's true labels are those from before all of them; a sample counts as selected if any of them selected
    it.

    Attributes:
        corruptions: One or more.
    """

    corruptions: Sequence[Corruption]

    def __post_init__(self) -> None:
        self._set(corruptions=tuple(self.corruptions))
        if not self.corruptions or not all(isinstance(each, Corruption) for each in self.corruptions):
            raise ValueError(
                f"corruptions is {list(self.corruptions)}, but it must hold at least one Corruption and nothing else: "
                "derive your own from law_lightning.data.Corruption."
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
        if rows is None or num_rows is None:  # each corruption gets rows, as it may get only part of the samples
            rows, num_rows = torch.arange(len(labels)), len(labels)
        kept, present = torch.arange(len(labels)), labels.clone()
        selected = torch.zeros_like(labels, dtype=torch.bool)
        for corruption in self.corruptions:
            record = corruption(present, num_classes, rows[kept], num_rows)
            present, kept, selected = record.labels, kept[record.kept], selected[record.kept]
            selected[record.selected] = True
        chosen = selected.nonzero().flatten()
        return CorruptionRecord(present, labels[kept], chosen, self.name, self.settings(), kept)


def check_labels(labels: Tensor, num_classes: int) -> None:
    """Check that labels are int64 [N] in [0, num_classes)."""
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


def plain_number(value: Any, setting: str, kind: type[int] | type[float] = float) -> Any:
    """Return a number, NumPy's too, as an int or a float: the record holds plain Python."""
    number: type[Any] = Integral if kind is int else Real
    if not isinstance(value, number):
        raise ValueError(f"{setting} is {value!r}, but it must be a {'whole ' if kind is int else ''}number.")
    return kind(value)
