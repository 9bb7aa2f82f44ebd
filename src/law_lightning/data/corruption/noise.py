"""Label noise: each label is selected with a probability and replaced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from law_lightning.data.corruption.base import Corruption, check_class, plain_number

#: Classes of CIFAR-10 that resemble each other: truck to automobile, bird to airplane, cat and dog, deer to horse
#: (Patrini et al., "Making Deep Neural Networks Robust to Label Noise", 2017).
CIFAR10_SIMILAR = {9: 1, 2: 0, 3: 5, 5: 3, 4: 7}


def draw(rate: float, count: int, seed: int) -> tuple[Tensor, torch.Generator]:
    """Select samples, bool [count], and return the generator for further draws.

    One number is drawn for every sample, whatever the rate: with one seed, the samples selected at a low rate are
    selected at every higher rate too.
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, generator=generator, dtype=torch.float64) < rate, generator


class Noise(Corruption):
    """The base of the noises: each selects labels at a rate."""

    rate: float
    seed: int

    def __post_init__(self) -> None:
        self._set(rate=plain_number(self.rate, "The noise rate"), seed=plain_number(self.seed, "seed", int))
        if not 0.0 <= self.rate <= 1.0:  # in this form NaN is refused as well
            raise ValueError(f"The noise rate is {self.rate}, but it must lie in [0, 1].")


@dataclass(frozen=True)
class UniformNoise(Noise):
    """A selected label becomes a class drawn uniformly from all C.

    This is the noise of the LAW paper: the true class can be drawn as well, so the expected share of wrong labels is
    ``rate * (1 - 1 / C)``; with ``exclude_true`` it is ``rate``.

    Attributes:
        rate: Probability that a label is selected, in [0, 1].
        seed: Decides which labels are selected and what they become.
        exclude_true: Never draw the true class.

    Example:
        >>> import torch
        >>> record = UniformNoise(rate=0.4)(torch.zeros(1000, dtype=torch.int64), num_classes=10)
        >>> bool((record.labels[record.indices] > 0).all()), 0.3 < len(record.indices) / 1000 < 0.42
        (True, True)
    """

    name = "uniform_noise"

    rate: float
    seed: int = 0
    exclude_true: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.exclude_true, bool):
            raise ValueError(f"exclude_true is {self.exclude_true!r}, but it must be True or False.")

    def replace(self, labels: Tensor, num_classes: int, rows: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
        """Return the noisy labels and which were selected."""
        selected, generator = draw(self.rate, len(labels), self.seed)
        if not self.exclude_true:
            replacement = torch.randint(num_classes, (len(labels),), generator=generator)
        elif num_classes == 1:
            raise ValueError("exclude_true=True needs at least 2 classes, but the data set has one.")
        else:  # the true class plus 1 to C - 1, modulo C
            replacement = (labels + torch.randint(1, num_classes, (len(labels),), generator=generator)) % num_classes
        return torch.where(selected, replacement, labels), selected


@dataclass(frozen=True)
class PairNoise(Noise):
    """A selected label c becomes the next class, (c + 1) mod C: pair flipping (Han et al., "Co-teaching", 2018).

    Attributes:
        rate: Probability that a label is selected, in [0, 1].
        seed: Decides which.
    """

    name = "pair_noise"

    rate: float
    seed: int = 0

    def replace(self, labels: Tensor, num_classes: int, rows: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
        """Return the noisy labels and which were selected."""
        selected, _ = draw(self.rate, len(labels), self.seed)
        return torch.where(selected, (labels + 1) % num_classes, labels), selected


@dataclass(frozen=True)
class AsymmetricNoise(Noise):
    """A selected label becomes a class that resembles it; classes that are not in the mapping stay.

    Attributes:
        rate: Probability that a label is selected, in [0, 1].
        mapping: The class that each of these classes becomes; by default :data:`CIFAR10_SIMILAR`.
        seed: Decides which labels are selected.
    """

    name = "asymmetric_noise"

    rate: float
    mapping: Mapping[int, int] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        mapping = CIFAR10_SIMILAR if self.mapping is None else self.mapping
        if not mapping:
            raise ValueError("mapping is empty: name at least one class and the class that it becomes.")
        plain = [[plain_number(each, "A class in mapping", int) for each in pair] for pair in mapping.items()]
        self._set(mapping=dict(plain))

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
