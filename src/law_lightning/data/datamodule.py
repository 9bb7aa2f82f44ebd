"""The base of the data modules: tensors in memory, clean evaluation labels, optional corruption."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from law_lightning.data.corruption import CorruptionRecord
from law_lightning.data.dataset import BatchedTensorDataset, identity_collate

Batch = tuple[Tensor, Tensor]
Corruption = Callable[[Tensor, int], CorruptionRecord]


@dataclass(frozen=True, eq=False)
class ArraySplits:
    """The three parts of a data set: inputs float32 [N, ...], true labels int64 [N]."""

    train_x: Tensor
    train_y: Tensor
    val_x: Tensor
    val_y: Tensor
    test_x: Tensor
    test_y: Tensor
    num_classes: int


class ArrayDataModule(L.LightningDataModule):
    """Serves training, validation and test data that fit in memory.

    A subclass says where they come from, in :meth:`load_splits`. Only training labels are corrupted;
    validation and test labels stay clean. The order of the training batches comes from torch's global
    random state, so ``seed_everything`` decides it.

    Args:
        batch_size: Training samples a batch; the last batch of an epoch may be smaller.
        eval_batch_size: Validation and test samples a batch.
        corruption: Called once as ``corruption(train_labels, num_classes)``; the labels of the record it
            returns are those trained on. None trains on the true labels.
        num_workers: Loader processes. The data are in memory, so 0 is usually fastest.
        transform: Augmentation of the inputs of each training batch, [B, ...] -> [B, ...].
    """

    def __init__(
        self,
        batch_size: int = 64,
        eval_batch_size: int = 1024,
        corruption: Corruption | None = None,
        num_workers: int = 0,
        transform: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("eval_batch_size", eval_batch_size, 1),
            ("num_workers", num_workers, 0),
        ):
            if value < least:
                raise ValueError(f"{name} is {value}, but it must be at least {least}.")
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.corruption = corruption
        self.num_workers = num_workers
        self.transform = transform
        #: What the corruption did, for analysis only; None without a corruption or before ``setup``.
        self.corruption_record: CorruptionRecord | None = None
        self._num_classes: int | None = None
        self._datasets: dict[str, BatchedTensorDataset] = {}

    def load_splits(self) -> ArraySplits:
        """Return the data, standardised, with true labels everywhere. Called once, by :meth:`setup`."""
        raise NotImplementedError(f"{type(self).__name__} must define load_splits().")

    def setup(self, stage: str | None = None) -> None:
        """Load the data and corrupt the training labels; a second call does nothing."""
        if self._datasets:
            return
        splits = self.load_splits()
        train_y = splits.train_y
        if self.corruption is not None:
            # A copy, so that a corruption that works in place cannot reach the true labels of its record.
            record = self.corruption(train_y.clone(), splits.num_classes)
            _check_corrupted(record.labels, len(train_y), splits.num_classes)
            self.corruption_record, train_y = record, record.labels
        self._num_classes = splits.num_classes
        # The true training labels go no further than the record: the dataset has never seen them.
        self._datasets = {
            "train": BatchedTensorDataset(splits.train_x, train_y, self.transform),
            "val": BatchedTensorDataset(splits.val_x, splits.val_y),
            "test": BatchedTensorDataset(splits.test_x, splits.test_y),
        }

    @property
    def num_classes(self) -> int:
        """Number of classes C; known after :meth:`setup`."""
        self._require_setup("num_classes")
        assert self._num_classes is not None
        return self._num_classes

    @property
    def in_shape(self) -> tuple[int, ...]:
        """Shape of one input, without the batch dimension; known after :meth:`setup`."""
        self._require_setup("in_shape")
        return tuple(self._datasets["train"].x.shape[1:])

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled training batches: inputs [B, ...] and, if there is a corruption, corrupted labels [B]."""
        return self._dataloader("train", self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Validation batches in a fixed order, with true labels."""
        return self._dataloader("val", self.eval_batch_size, shuffle=False)

    def test_dataloader(self) -> DataLoader[Batch]:
        """Test batches in a fixed order, with true labels."""
        return self._dataloader("test", self.eval_batch_size, shuffle=False)

    def _dataloader(self, split: str, batch_size: int, shuffle: bool) -> DataLoader[Batch]:
        self._require_setup(f"{split}_dataloader")
        return DataLoader(
            self._datasets[split],
            batch_size=batch_size,
            shuffle=shuffle,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            collate_fn=identity_collate,
        )

    def _require_setup(self, name: str) -> None:
        if not self._datasets:
            raise RuntimeError(f"{type(self).__name__}.{name} is not known yet: call setup() first.")


def _check_corrupted(labels: Tensor, num_samples: int, num_classes: int) -> None:
    """Check what a user's own corruption returned, before a step is wasted on it."""
    if labels.shape != (num_samples,) or labels.dtype != torch.int64:
        raise ValueError(
            f"The corruption returned labels of shape {list(labels.shape)} and {labels.dtype}, but the "
            f"{num_samples} training samples need int64 labels of shape [{num_samples}]."
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise ValueError(
            f"The corruption returned labels from {low} to {high}, but with {num_classes} classes they must "
            f"lie in [0, {num_classes - 1}]."
        )
