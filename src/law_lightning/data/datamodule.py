"""The base of the data modules whose data fit in memory as tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from law_lightning.data.base import LabelledDataModule
from law_lightning.data.dataset import BatchedTensorDataset, identity_collate


@dataclass(frozen=True, eq=False)
class ArraySplits:
    """The three parts of a data set: inputs float32 [N, ...], true labels int64 [N].

    Attributes:
        num_classes: Number of classes C.
        train_rows: Which rows of the data set's training part the training samples are, int64 [N]; None where
            nobody can tell.
        num_rows: How many rows that part has.
    """

    train_x: Tensor
    train_y: Tensor
    val_x: Tensor
    val_y: Tensor
    test_x: Tensor
    test_y: Tensor
    num_classes: int
    train_rows: Tensor | None = None
    num_rows: int | None = None


class ArrayDataModule(LabelledDataModule):
    """Serves training, validation and test data that fit in memory.

    A subclass says where they come from, in :meth:`load_splits`.

    Args:
        transform: Augmentation of the inputs of each training batch, [B, ...] -> [B, ...].
        **kwargs: Passed on to :class:`~law_lightning.data.base.LabelledDataModule`: ``batch_size``,
            ``eval_batch_size``, ``corruption``, ``num_workers`` (the data are in memory, so 0 is usually fastest).
    """

    collate_fn = staticmethod(identity_collate)

    def __init__(self, *, transform: Callable[[Tensor], Tensor] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.transform = transform

    def load_splits(self) -> ArraySplits:
        """Return the data, standardised, with true labels everywhere. Called once, by :meth:`setup`."""
        raise NotImplementedError(f"{type(self).__name__} must define load_splits().")

    def make_datasets(self, splits: ArraySplits, kept: Tensor, labels: Tensor) -> dict[str, Dataset[Any]]:
        """Keep the inputs as tensors; only training batches are augmented."""
        x = splits.train_x if len(kept) == len(splits.train_x) else splits.train_x[kept]
        return {
            "train": BatchedTensorDataset(x, labels, self.transform),
            "clean": BatchedTensorDataset(x, labels),
            "val": BatchedTensorDataset(splits.val_x, splits.val_y),
            "test": BatchedTensorDataset(splits.test_x, splits.test_y),
        }
