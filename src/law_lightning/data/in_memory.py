"""The base of the data modules whose data fit in memory as tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from law_lightning.data.base import LabelledDataModule


class BatchedTensorDataset(TensorDataset):
    """Inputs and labels as two tensors, indexed a batch at a time.

    A :class:`~torch.utils.data.DataLoader` asks a dataset that has ``__getitems__`` for all samples of a
    batch at once. With ``collate_fn=identity_collate`` a batch then costs two index operations, not one
    per sample and a stack.

    Args:
        x: Inputs, [N, ...].
        y: Labels, int64 [N].
        transform: Augmentation applied to the inputs of every batch, [B, ...] -> [B, ...]; it draws from
            torch's global random state.
    """

    def __init__(self, x: Tensor, y: Tensor, transform: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__(x, y)
        self.x, self.y, self.transform = x, y, transform

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x, y = self.__getitems__([index])
        return x[0], y[0]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return the batch of ``indices``: inputs [B, ...] and labels [B]."""
        index = torch.as_tensor(indices, dtype=torch.int64)
        x = self.x[index]
        return x if self.transform is None else self.transform(x), self.y[index]


def identity_collate(batch: Any) -> Any:
    """Return the batch that ``__getitems__`` made. Not a lambda, as worker processes unpickle it."""
    return batch


def random_horizontal_flip(x: Tensor) -> Tensor:
    """Mirror each image left to right with probability one half, by a draw from torch's global random state.

    Args:
        x: Images, [B, C, H, W].

    Returns:
        The images, [B, C, H, W].
    """
    flipped = torch.rand(len(x)) < 0.5
    return torch.where(flipped.view(-1, 1, 1, 1), x.flip(-1), x)


@dataclass(frozen=True, eq=False)
class ArraySplits:
    """The three parts of a data set: inputs float32 [N, ...], true labels int64 [N].

    Attributes:
        num_classes: Number of classes C.
        train_rows: Which rows of the data set's training part the training samples are, int64 [N]; None where
            that is unknown.
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

    A subclass returns them as :class:`ArraySplits`, standardised, from :meth:`load_splits`.

    Args:
        transform: Augmentation of the inputs of each training batch, [B, ...] -> [B, ...].
        **kwargs: Passed on to :class:`~law_lightning.data.base.LabelledDataModule`: ``batch_size``,
            ``eval_batch_size``, ``corruption``, ``num_workers`` (the data are in memory, so 0 is usually fastest).
    """

    collate_fn = staticmethod(identity_collate)

    def __init__(self, *, transform: Callable[[Tensor], Tensor] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.transform = transform

    def make_datasets(self, splits: ArraySplits, kept: Tensor, labels: Tensor) -> dict[str, Dataset[Any]]:
        """Keep the inputs as tensors; only training batches are augmented."""
        x = splits.train_x if len(kept) == len(splits.train_x) else splits.train_x[kept]
        return {
            "train": BatchedTensorDataset(x, labels, self.transform),
            "clean": TensorDataset(x, labels),
            "val": BatchedTensorDataset(splits.val_x, splits.val_y),
            "test": BatchedTensorDataset(splits.test_x, splits.test_y),
        }
