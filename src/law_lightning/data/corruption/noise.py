"""Label noise: each label is selected with a probability and replaced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from law_lightning.data.corruption.base import Corruption, check_class

#: Classes of CIFAR-10 that resemble each other: truck to automobile, bird to airplane, cat and dog, deer to horse
#: (Patrini et al., "Making Deep Neural Networks Robust to Label Noise", 2017).
CIFAR10_SIMILAR = {9: 1, 2: 0, 3: 5, 5: 3, 4: 7}


def uniform_noise(
    labels: Tensor, rate: float, num_classes: int, seed: int, exclude_true: bool = False
) -> tuple[Tensor, Tensor]:
    """Replace each label, with probability ``rate``, by a class drawn uniformly.

    This is the noise of the LAW paper: the true class can come back, so the expected share of wrong
    labels is ``rate * (1 - 1 / num_classes)``. The input is not modified and the global random state is
    neither read nor advanced.

    Args:
        labels: True labels, int64 [N], each in [0, num_classes).
        rate: Probability that a label is replaced, in [0, 1].
        num_classes: Number of classes C.
        seed: Decides, alone, which labels are replaced and by what.
        exclude_true: Draw from the other classes only; then the expected share of wrong labels is ``rate``.

    Returns:
        The noisy labels, int64 [N], and the sorted indices, int64 [M], of the labels that are now wrong.

    Raises:
        ValueError: For a rate outside [0, 1], or labels that are not int64 [N] in [0, num_classes).

    Example:
        >>> import torch
        >>> labels = torch.zeros(1000, dtype=torch.int64)
        >>> noisy, changed = uniform_noise(labels, rate=0.4, num_classes=10, seed=0)
        >>> bool((noisy[changed] != labels[changed]).all()), 0.3 < len(changed) / 1000 < 0.42
        (True, True)
    """
    noisy = UniformNoise(rate, seed, exclude_true)(labels, num_classes).labels
    return noisy, (noisy != labels).nonzero().flatten()


def draw(rate: float, count: int, seed: int) -> tuple[Tensor, torch.Generator]:
    """Select samples, bool [count], and return the generator for further draws.

    Every sample is drawn for, whatever the rate: with one seed, the samples selected at a low rate are selected at
    every higher rate too.
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, generator=generator, dtype=torch.float64) < rate, generator


def _check_rate(rate: float) -> None:
    # "not inside" rather than "outside", so that NaN is caught as well.
    if not 0.0 <= rate <= 1.0:
        raise ValueError(f"The noise rate is {rate}, but it must lie in [0, 1].")


@dataclass(frozen=True)
class UniformNoise(Corruption):
    """A selected label becomes any class (see :func:`uniform_noise`).

    Attributes:
        rate: Probability that a label is selected, in [0, 1].
        seed: Decides which labels are selected and what they become.
        exclude_true: Never draw the true class.
    """

    name: ClassVar[str] = "uniform_noise"

    rate: float
    seed: int = 0
    exclude_true: bool = False

    def __post_init__(self) -> None:
        _check_rate(self.rate)

    def replace(
        self, labels: Tensor, num_classes: int, rows: Tensor | None = None, num_rows: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the noisy labels and which were selected."""
        selected, generator = draw(self.rate, len(labels), self.seed)
        if not self.exclude_true:
            replacement = torch.randint(num_classes, (len(labels),), generator=generator)
        elif num_classes == 1:
            raise ValueError("exclude_true=True needs at least 2 classes, but the data set has one.")
        else:  # from the true class on, and around: 1 to C - 1 further
            replacement = (labels + torch.randint(1, num_classes, (len(labels),), generator=generator)) % num_classes
        return torch.where(selected, replacement, labels), selected


@dataclass(frozen=True)
class PairNoise(Corruption):
    """A selected label c becomes the next class, (c + 1) mod C (pair flipping; Han et al., "Co-teaching", 2018).

    Attributes:
        rate: Probability that a label is selected, in [0, 1].
        seed: Decides which.
    """

    name: ClassVar[str] = "pair_noise"

    rate: float
    seed: int = 0

    def __post_init__(self) -> None:
        _check_rate(self.rate)

    def replace(
        self, labels: Tensor, num_classes: int, rows: Tensor | None = None, num_rows: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the noisy labels and which were selected."""
        selected, _ = draw(self.rate, len(labels), self.seed)
        return torch.where(selected, (labels + 1) % num_classes, labels), selected


@dataclass(frozen=True)
class AsymmetricNoise(Corruption):
    """A selected label becomes a class that resembles it; classes that are not in the mapping stay.

    Attributes:
        rate: Probability that a label is selected, in [0, 1].
        mapping: What each of these classes becomes; by default :data:`CIFAR10_SIMILAR`.
        seed: Decides which labels are selected.
    """

    name: ClassVar[str] = "asymmetric_noise"

    rate: float
    mapping: Mapping[int, int] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        _check_rate(self.rate)
        mapping: Mapping[Any, Any] = CIFAR10_SIMILAR if self.mapping is None else self.mapping
        try:  # a config may give class indices as text
            plain = {int(before): int(after) for before, after in mapping.items()}
        except (AttributeError, TypeError, ValueError):
            raise ValueError(f"mapping is {mapping!r}, but it must map class indices to class indices.") from None
        object.__setattr__(self, "mapping", plain)

    def replace(
        self, labels: Tensor, num_classes: int, rows: Tensor | None = None, num_rows: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the noisy labels and which were selected."""
        table = torch.arange(num_classes)
        for before, after in (self.mapping or {}).items():
            check_class(before, num_classes, "mapping")
            check_class(after, num_classes, "mapping")
            table[before] = after
        mapped = torch.isin(labels, torch.tensor(list(self.mapping or {}), dtype=torch.int64))
        selected = draw(self.rate, len(labels), self.seed)[0] & mapped
        return torch.where(selected, table[labels], labels), selected
