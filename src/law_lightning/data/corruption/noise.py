"""Label noise: each label is selected with a probability and replaced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from law_lightning.data.corruption.base import Corruption, check_class, plain_float, plain_int, plain_seed
from law_lightning.data.corruption.record import CorruptionRecord

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
    return _outcome(UniformNoise(rate, seed, exclude_true)(labels, num_classes))


def pair_noise(labels: Tensor, rate: float, num_classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Turn each label c, with probability ``rate``, into the next class, (c + 1) mod C.

    Arguments, results and errors are those of :func:`uniform_noise`. Also known as pair flipping (Han et al.,
    "Co-teaching", 2018).

    Example:
        >>> import torch
        >>> pair_noise(torch.tensor([0, 1, 2]), rate=1.0, num_classes=3, seed=0)
        (tensor([1, 2, 0]), tensor([0, 1, 2]))
    """
    return _outcome(PairNoise(rate, seed)(labels, num_classes))


def asymmetric_noise(
    labels: Tensor, rate: float, num_classes: int, mapping: Mapping[int, int], seed: int
) -> tuple[Tensor, Tensor]:
    """Turn each label c in the mapping, with probability ``rate``, into ``mapping[c]``.

    Arguments, results and errors are otherwise those of :func:`uniform_noise`; an error too is a mapping that names
    classes outside [0, num_classes).

    Example:
        >>> import torch
        >>> asymmetric_noise(torch.tensor([0, 1, 2]), rate=1.0, num_classes=3, mapping={0: 2}, seed=0)
        (tensor([2, 1, 2]), tensor([0]))
    """
    return _outcome(AsymmetricNoise(rate, mapping, seed)(labels, num_classes))


def _outcome(record: CorruptionRecord) -> tuple[Tensor, Tensor]:
    return record.labels, record.indices


def draw(rate: float, count: int, seed: int) -> tuple[Tensor, torch.Generator]:
    """Select samples, bool [count], and return the generator for further draws.

    Every sample is drawn for, whatever the rate: with one seed, the samples selected at a low rate are selected at
    every higher rate too.
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, generator=generator, dtype=torch.float64) < rate, generator


def _plain_rate(value: Any) -> float:
    rate = plain_float(value, "The noise rate")
    # "not inside" rather than "outside", so that NaN is caught as well.
    if not 0.0 <= rate <= 1.0:
        raise ValueError(f"The noise rate is {rate}, but it must lie in [0, 1].")
    return rate


@dataclass(frozen=True)
class UniformNoise(Corruption):
    """A selected label becomes any class (see :func:`uniform_noise`).

    Attributes:
        rate: Probability that a label is selected, in [0, 1].
        seed: Decides which labels are selected and what they become.
        exclude_true: Never draw the true class.
    """

    name = "uniform_noise"

    rate: float
    seed: int = 0
    exclude_true: bool = False

    def __post_init__(self) -> None:
        self._set(rate=_plain_rate(self.rate), seed=plain_seed(self.seed))
        if not isinstance(self.exclude_true, bool):
            raise ValueError(f"exclude_true is {self.exclude_true!r}, but it must be True or False.")

    def replace(self, labels: Tensor, num_classes: int, rows: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
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
    """A selected label c becomes the next class, (c + 1) mod C (see :func:`pair_noise`).

    Attributes:
        rate: Probability that a label is selected, in [0, 1].
        seed: Decides which.
    """

    name = "pair_noise"

    rate: float
    seed: int = 0

    def __post_init__(self) -> None:
        self._set(rate=_plain_rate(self.rate), seed=plain_seed(self.seed))

    def replace(self, labels: Tensor, num_classes: int, rows: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
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

    name = "asymmetric_noise"

    rate: float
    mapping: Mapping[int, int] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        mapping = _plain_mapping(CIFAR10_SIMILAR if self.mapping is None else self.mapping)
        self._set(rate=_plain_rate(self.rate), mapping=mapping, seed=plain_seed(self.seed))

    def replace(self, labels: Tensor, num_classes: int, rows: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
        """Return the noisy labels and which were selected."""
        assert self.mapping is not None
        becomes, is_mapped = torch.arange(num_classes), torch.zeros(num_classes, dtype=torch.bool)
        for before, after in self.mapping.items():
            check_class(before, num_classes, "mapping")
            check_class(after, num_classes, "mapping")
            becomes[before], is_mapped[before] = after, True
        selected = draw(self.rate, len(labels), self.seed)[0] & is_mapped[labels]
        return torch.where(selected, becomes[labels], labels), selected


def _plain_mapping(mapping: Any) -> dict[int, int]:
    if not isinstance(mapping, Mapping) or not mapping:
        raise ValueError(f"mapping is {mapping!r}, but it must map class indices to class indices, one or more.")
    plain = {_class_index(before): _class_index(after) for before, after in mapping.items()}
    if len(plain) < len(mapping):
        raise ValueError(f"mapping is {dict(mapping)}, but it must name each class only once, be it as text or number.")
    return plain


def _class_index(value: Any) -> int:
    is_digits = isinstance(value, str) and value.isascii() and value.isdigit()  # a config may give keys as text
    return plain_int(int(value) if is_digits else value, "A class in mapping")
