"""Class imbalance: samples are left out, labels stay."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from law_lightning.data.corruption.base import Corruption, check_class, plain_number


def _keep_of_classes(labels: Tensor, counts: dict[int, int], setting: str, seed: int) -> Tensor:
    """All samples, but of these classes a random choice, int64 [K], ascending; a greater count extends the choice."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    kept = [order[~torch.isin(labels[order], torch.tensor(list(counts)))]]
    for index, count in counts.items():
        of_class = order[labels[order] == index]
        if count < 1:
            raise ValueError(
                f"{setting} leaves none of the {len(of_class)} training samples of class {index}: lower it, or take "
                "more training samples, some of each class."
            )
        kept.append(of_class[:count])
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
        classes = tuple(plain_number(each, "A class in classes", int) for each in self.classes)
        self._set(classes=classes, share=plain_number(self.share, "share"), seed=plain_number(self.seed, "seed", int))
        if not classes or len(set(classes)) < len(classes):
            raise ValueError(f"classes is {list(classes)}, but it must name one class or more, each only once.")
        if not 0.0 <= self.share < 1.0:
            raise ValueError(f"share is {self.share}, but it must lie in [0, 1): a class must keep some samples.")

    def keep(self, labels: Tensor, num_classes: int) -> Tensor:
        """Return the samples to keep."""
        present, counts = torch.bincount(labels, minlength=num_classes).tolist(), {}
        for index in self.classes:
            check_class(index, num_classes, "classes")
            counts[index] = round(present[index] * (1 - self.share))
        return _keep_of_classes(labels, counts, f"share={self.share}", self.seed)


@dataclass(frozen=True)
class LongTail(Corruption):
    r"""Classes shrink exponentially with their index.

    The number of samples that stay of class c is

    .. math:: \min(n_c, \mathrm{round}(n_{\max} \, \rho^{-c / (C - 1)}))

    with :math:`n_c` those there are, C the number of classes and :math:`\rho` the imbalance rate (Cui et al.,
    "Class-Balanced Loss Based on Effective Number of Samples", 2019).

    Attributes:
        imbalance: Size of the largest class over that of the smallest, at least 1.
        seed: Decides which samples are left out.
    """

    name = "long_tail"

    imbalance: float
    seed: int = 0

    def __post_init__(self) -> None:
        self._set(imbalance=plain_number(self.imbalance, "imbalance"), seed=plain_number(self.seed, "seed", int))
        if not 1.0 <= self.imbalance < math.inf:
            raise ValueError(
                f"imbalance is {self.imbalance}, but it must be at least 1 and finite: the size of the largest class "
                "over that of the smallest."
            )

    def keep(self, labels: Tensor, num_classes: int) -> Tensor:
        """Return the samples to keep."""
        present = torch.bincount(labels, minlength=num_classes).tolist()
        largest, steps = max(present), max(num_classes - 1, 1)
        counts = {c: min(n, round(largest * self.imbalance ** (-c / steps))) for c, n in enumerate(present)}
        return _keep_of_classes(labels, counts, f"imbalance={self.imbalance}", self.seed)
