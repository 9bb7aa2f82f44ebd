"""Corruptions of training labels and class counts, and the record of what they did."""

from law_lightning.data.corruption.base import Compose, Corruption
from law_lightning.data.corruption.imbalance import DiscardClasses, LongTail
from law_lightning.data.corruption.label_file import LabelFile
from law_lightning.data.corruption.noise import CIFAR10_SIMILAR, AsymmetricNoise, PairNoise, UniformNoise
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
]
