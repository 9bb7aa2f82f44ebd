"""The base of the corruptions: frozen settings, called with the true labels."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from dataclasses import asdict
from numbers import Real
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
        raise NotImplementedError(f"{type(self).__name__} must define name.")

    def __call__(
        self, labels: Tensor, num_classes: int, rows: Tensor | None = None, num_rows: int | None = None
    ) -> CorruptionRecord:
        """Corrupt the labels.

        Args:
            labels: True labels of the N training samples, int64 [N], each in [0, num_classes).
            num_classes: Number of classes C.
            rows: Which rows of the data set's training part these samples are, int64 [N]; None stands for all.
            num_rows: How many rows that part has; it goes together with ``rows``.

        Raises:
            ValueError: The labels are not such a tensor, or do not fit the corruption's settings.
        """
        check_labels(labels, num_classes)
        rows, num_rows = check_rows(rows, num_rows, labels)
        kept = self.keep(labels.cpu(), num_classes)
        true_labels = labels.cpu()[kept]  # a copy: the record stays true even if the caller writes into its labels
        replaced, selected = self.replace(true_labels.clone(), num_classes, rows.cpu()[kept], num_rows)
        return CorruptionRecord(
            labels=replaced.to(labels.device),
            true_labels=true_labels.to(labels.device),
            selected=selected.nonzero().flatten().to(labels.device),
            name=self.name,
            settings=self.settings(),
            kept=kept.to(labels.device),
        )

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
        """Put checked values in the place of those given, once, in ``__post_init__``."""
        for name, value in settings.items():
            object.__setattr__(self, name, value)


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


def check_rows(rows: Tensor | None, num_rows: int | None, labels: Tensor) -> tuple[Tensor, int]:
    """Check that rows are int64 [N] in [0, num_rows); without any, the samples are the whole training part."""
    if rows is None and num_rows is None:
        return torch.arange(len(labels), device=labels.device), len(labels)
    if rows is None or num_rows is None:
        raise ValueError("rows and num_rows go together, but only one was given: give both, or neither.")
    if rows.dtype != torch.int64 or rows.shape != labels.shape:
        raise ValueError(
            f"rows must be an int64 tensor of shape {list(labels.shape)}, one for each label, but it is {rows.dtype} "
            f"of shape {list(rows.shape)}."
        )
    wrong = rows[(rows < 0) | (rows >= num_rows)]
    if len(wrong) > 0:
        raise ValueError(
            f"Found the row {int(wrong[0])}, but with num_rows={num_rows} rows lie in [0, {num_rows - 1}]."
        )
    return rows.to(labels.device), num_rows


def check_class(index: int, num_classes: int, setting: str) -> None:
    """Check that a class named in a setting is one of the data set's."""
    if not 0 <= index < num_classes:
        raise ValueError(
            f"{setting} names class {index}, but the data set has the {num_classes} classes 0 to {num_classes - 1}."
        )


def plain_float(value: Any, setting: str) -> float:
    """Return a number, NumPy's too, as a float: the record holds plain Python."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ValueError(f"{setting} is {value!r}, but it must be a number.")
    return float(value)


def plain_int(value: Any, setting: str) -> int:
    """Return a whole number, NumPy's too, as an int: the record holds plain Python."""
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise ValueError(f"{setting} is {value!r}, but it must be a whole number.") from None


def plain_seed(value: Any) -> int:
    """Return a seed that torch's generators take."""
    seed = plain_int(value, "seed")
    if not -(2**63) <= seed < 2**64:
        raise ValueError(f"seed is {seed}, but it must lie in [-2**63, 2**64).")
    return seed


def plain_tuple(value: Iterable[Any], setting: str) -> tuple[Any, ...]:
    """Return a list, or what is like one, as a tuple."""
    try:
        return tuple(value)
    except TypeError:
        raise ValueError(f"{setting} is {value!r}, but it must be a list.") from None
