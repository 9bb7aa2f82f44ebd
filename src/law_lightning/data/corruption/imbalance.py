"""Class imbalance: samples are left out, labels stay."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from law_lightning.data.corruption.base import Corruption, check_class


def long_tail_counts(largest: int, num_classes: int, imbalance: float) -> list[int]:
    r"""Samples of each class in an exponential long tail.

    .. math:: n_c = \mathrm{round}(n \, \rho^{-c / (C - 1)})

    with n the size of the largest class, :math:`\rho` the imbalance rate and C the number of classes (Cui et al.,
    "Class-Balanced Loss Based on Effective Number of Samples", 2019).

    Args:
        largest: n.
        num_classes: C.
        imbalance: Size of the largest class over that of the smallest, at least 1.

    Example:
        >>> long_tail_counts(100, 3, imbalance=100)
        [100, 10, 1]
    """
    return [round(largest * imbalance ** (-c / max(num_classes - 1, 1))) for c in range(num_classes)]


def keep_of_each_class(labels: Tensor, counts: Sequence[int], seed: int) -> Tensor:
    """Choose at most so many samples of each class at random.

    With one seed, the samples kept by a small count are kept by every greater one too.

    Args:
        labels: int64 [N].
        counts: How many to keep of each class [C].
        seed: Decides the choice, alone.

    Returns:
        The samples kept, int64 [K], ascending.
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    kept = [order[labels[order] == c][:count] for c, count in enumerate(counts)]
    return torch.cat(kept).sort().values


@dataclass(frozen=True)
class DiscardClasses(Corruption):
    """A share of the samples of some classes is left out (the LAW paper: 96 % of classes 0 and 1 of CIFAR-10).

    Of a class with n samples, ``round(n * (1 - share))`` stay.

    Attributes:
        classes: Indices of the classes.
        share: Which share of them is left out, in [0, 1).
        seed: Decides which samples.
    """

    name: ClassVar[str] = "discard"

    classes: Sequence[int]
    share: float
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(self.classes))
        if not self.classes or len(set(self.classes)) < len(self.classes):
            raise ValueError(f"classes is {list(self.classes)}, but it must name one class or more, each only once.")
        if not 0.0 <= self.share < 1.0:
            raise ValueError(f"share is {self.share}, but it must lie in [0, 1): some of a class must be left.")

    def keep(self, labels: Tensor, num_classes: int) -> Tensor:
        """Return the samples to keep."""
        counts = torch.bincount(labels, minlength=num_classes).tolist()
        for index in self.classes:
            check_class(index, num_classes, "classes")
            left = round(counts[index] * (1 - self.share))
            if left < 1:
                raise ValueError(
                    f"Discarding {self.share:.0%} of the {counts[index]} training samples of class {index} leaves "
                    "none: lower share, or take more training samples."
                )
            counts[index] = left
        return keep_of_each_class(labels, counts, self.seed)


@dataclass(frozen=True)
class LongTail(Corruption):
    """Classes shrink exponentially with their index (see :func:`long_tail_counts`).

    A class keeps all its samples where it has fewer than it could.

    Attributes:
        imbalance: Size of the largest class over that of the smallest, at least 1.
        seed: Decides which samples are left out.
    """

    name: ClassVar[str] = "long_tail"

    imbalance: float
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1.0 <= self.imbalance < math.inf:
            raise ValueError(
                f"imbalance is {self.imbalance}, but it must be at least 1 and finite: the size of the largest class "
                "over that of the smallest."
            )

    def keep(self, labels: Tensor, num_classes: int) -> Tensor:
        """Return the samples to keep."""
        have = torch.bincount(labels, minlength=num_classes).tolist()
        counts = long_tail_counts(max(have), num_classes, self.imbalance)
        for index in range(num_classes):
            if min(have[index], counts[index]) < 1:
                raise ValueError(
                    f"A long tail of imbalance {self.imbalance} leaves no sample of class {index}, of which there are "
                    f"{have[index]}: lower imbalance, or take more training samples."
                )
        return keep_of_each_class(labels, counts, self.seed)
