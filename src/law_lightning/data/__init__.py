"""Data modules, in memory or over torchvision's datasets, and label corruption."""

from law_lightning.data.arrays import ArraysDataModule
from law_lightning.data.cleaned import cleaned
from law_lightning.data.corruption import (
    CIFAR10_SIMILAR,
    AsymmetricNoise,
    Compose,
    Corruption,
    CorruptionRecord,
    DiscardClasses,
    LabelFile,
    LongTail,
    PairNoise,
    UniformNoise,
)
from law_lightning.data.digits import DigitsDataModule
from law_lightning.data.folder import ImageFolderDataModule, ImageNetDataModule
from law_lightning.data.in_memory import (
    ArrayDataModule,
    ArraySplits,
    BatchedTensorDataset,
    identity_collate,
    random_horizontal_flip,
)
from law_lightning.data.small_images import (
    CIFAR10DataModule,
    CIFAR100DataModule,
    FashionMNISTDataModule,
    MNISTDataModule,
)
from law_lightning.data.vision import VisionDataModule

__all__ = [
    "CIFAR10_SIMILAR",
    "ArrayDataModule",
    "ArraySplits",
    "ArraysDataModule",
    "AsymmetricNoise",
    "BatchedTensorDataset",
    "CIFAR10DataModule",
    "CIFAR100DataModule",
    "Compose",
    "Corruption",
    "CorruptionRecord",
    "DigitsDataModule",
    "DiscardClasses",
    "FashionMNISTDataModule",
    "ImageFolderDataModule",
    "ImageNetDataModule",
    "LabelFile",
    "LongTail",
    "MNISTDataModule",
    "PairNoise",
    "UniformNoise",
    "VisionDataModule",
    "cleaned",
    "identity_collate",
    "random_horizontal_flip",
]
