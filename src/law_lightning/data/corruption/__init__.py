"""Corruptions of training labels and class counts, and the record of what they did."""

from law_lightning.data.corruption.base import Corruption
from law_lightning.data.corruption.compose import Compose
from law_lightning.data.corruption.imbalance import DiscardClasses, LongTail, long_tail_counts
from law_lightning.data.corruption.label_file import LabelFile
from law_lightning.data.corruption.noise import (
    CIFAR10_SIMILAR,
    AsymmetricNoise,
    PairNoise,
    UniformNoise,
    asymmetric_noise,
    pair_noise,
    uniform_noise,
)
from law_lightning.data.corruption.record import CorruptionRecord

__all__ = [
    "CIFAR10_SIMILAR",
    "AsymmetricNoise",
    "Compose",
    "Corruption",
    "CorruptionRecord",
    "DiscardClasses",
    "LabelFile",
    "LongTail",
    "PairNoise",
    "UniformNoise",
    "asymmetric_noise",
    "long_tail_counts",
    "pair_noise",
    "uniform_noise",
]
