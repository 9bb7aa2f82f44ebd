"""Data modules whose tensors fit in memory, and label corruption."""

from law_lightning.data.arrays import ArraysDataModule
from law_lightning.data.corruption import CorruptionRecord, UniformNoise, uniform_noise
from law_lightning.data.datamodule import ArrayDataModule, ArraySplits
from law_lightning.data.dataset import BatchedTensorDataset, identity_collate, random_horizontal_flip
from law_lightning.data.digits import DigitsDataModule

__all__ = [
    "ArrayDataModule",
    "ArraySplits",
    "ArraysDataModule",
    "BatchedTensorDataset",
    "CorruptionRecord",
    "DigitsDataModule",
    "UniformNoise",
    "identity_collate",
    "random_horizontal_flip",
    "uniform_noise",
]
