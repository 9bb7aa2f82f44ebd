"""Class imbalance: samples are left out, labels stay."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from law_lightning.data.corruption.base import Corruption, check_class, plain_number, plain_seed, plain_tuple


def long_tail_counts(counts: Sequence[int], imbalance: float) -> list[int]:
    r"""How many samples of each class an exponential long tail keeps.

    .. math:: \min(n_c, \mathrm{round}(n_{\max} \, \rho^{-c / (C - 1)}))

    with :math:`\rho` the imbalance rate and C the number of classes (Cui et al., "Class-Balanced Loss Based on
    Effective Number of Samples", 2019).

    Args:
        counts: How many samples there are of each class, n_c, [C].
        imbalance: Size of the largest class over that of the smallest, at least 1.

    Returns:
        How many to keep of each class, [C].

    Example:
        >>> long_tail_counts([100, 100, 100], imbalance=100)
        [100, 10, 1]
    """
    largest, steps = max(counts), max(len(counts) - 1, 1)
    return [min(count, round(largest * imbalance ** (-c / steps))) for c, count in enumerate(counts)]


def keep_of_each_class(labels: Tensor, counts: Sequence[int], seed: int) -> Tensor:
    """Return at most so many random samples of each class, int64 [K], ascending.

    With one seed, the samples kept by a small count are kept by every greater one too.

    Args:
        labels: int64 [N].
        counts: How many to keep of each class [C].
        seed: Decides the choice, alone.
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

    name = "discard"

    classes: Sequence[int]
    share: float
    seed: int = 0

    def __post_init__(self) -> None:
        classes = tuple(plain_number(each, "A class in classes", int) for each in plain_tuple(self.classes, "classes"))
        self._set(classes=classes, share=plain_number(self.share, "share"), seed=plain_seed(self.seed))
        if not classes or len(set(classes)) < len(classes):
            raise ValueError(f"classes is {list(classes)}, but it must name one class or more, each only once.")
        if not 0.0 <= self.share < 1.0:
            raise ValueError(f"share is {self.share}, but it must lie in [0, 1): some of a class must be left.")

    def keep(self, labels: Tensor, num_classes: int) -> Tensor:
        """Return the samples to keep."""
        counts = torch.bincount(labels, minlength=num_classes).tolist()
        for index in self.classes:
            check_class(index, num_classes, "classes")
            if counts[index] == 0:
                raise ValueError(
                    f"classes names class {index}, of which there are no training samples: leave it out, or take more "
                    "training samples."
                )
            left = round(counts[index] * (1 - self.share))
            if left < 1:
                raise ValueError(
                    f"Discarding the share {self.share} of the {counts[index]} training samples of class {index} "
                    "leaves none: lower share, or take more training samples."
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

    name = "long_tail"

    imbalance: float
    seed: int = 0

    def __post_init__(self) -> None:
        self._set(imbalance=plain_number(self.imbalance, "imbalance"), seed=plain_seed(self.seed))
        if not 1.0 <= self.imbalance < math.inf:
            raise ValueError(
                f"imbalance is {self.imbalance}, but it must be at least 1 and finite: the size of the largest class "
                "over that of the smallest."
            )

    def keep(self, labels: Tensor, num_classes: int) -> Tensor:
        """Return the samples to keep."""
        present = torch.bincount(labels, minlength=num_classes).tolist()
        counts = long_tail_counts(present, self.imbalance)
        for index in range(num_classes):
            if present[index] == 0:
                raise ValueError(
                    f"A long tail needs samples of all {num_classes} classes, but there are no training samples of "
                    f"class {index}: take more training samples."
                )
            if counts[index] == 0:
                raise ValueError(
                    f"A long tail of imbalance {self.imbalance} leaves none of the {present[index]} training samples "
                    f"of class {index}: lower imbalance, or take more training samples."
                )
        return keep_of_each_class(labels, counts, self.seed)
