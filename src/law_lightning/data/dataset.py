"""A dataset in memory that serves a whole batch in one indexing operation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data import Dataset

T = TypeVar("T")


class BatchedTensorDataset(Dataset[tuple[Tensor, Tensor]]):
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
        if len(x) != len(y):
            raise ValueError(f"There are {len(x)} inputs but {len(y)} labels: give one label for each input.")
        self.x = x
        self.y = y
        self.transform = transform

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x = self.x[index]
        if self.transform is not None:
            x = self.transform(x.unsqueeze(0)).squeeze(0)
        return x, self.y[index]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return the batch of ``indices``: inputs [B, ...] and labels [B]."""
        index = torch.as_tensor(indices, dtype=torch.int64)
        x = self.x[index]
        if self.transform is not None:
            x = self.transform(x)
        return x, self.y[index]


class WithTruth(Dataset[tuple[Any, Tensor]]):
    """Samples, each with the answer to whether its label is wrong: for analysis, never for training.

    Args:
        dataset: The samples.
        wrong: bool [N].
    """

    def __init__(self, dataset: Dataset[Any], wrong: Tensor) -> None:
        self.dataset = dataset
        self.wrong = wrong

    def __len__(self) -> int:
        return len(self.wrong)

    def __getitem__(self, index: int) -> tuple[Any, Tensor]:
        return self.dataset[index], self.wrong[index]


def identity_collate(batch: T) -> T:
    """Return the batch as it is: ``__getitems__`` has already put it together.

    At module level, so that worker processes can unpickle it.
    """
    return batch


def random_horizontal_flip(x: Tensor) -> Tensor:
    """Mirror each image left to right with probability one half.

    Args:
        x: Images, [B, C, H, W].

    Returns:
        The images, [B, C, H, W], each mirrored or not by a draw from torch's global random state.
    """
    flipped = torch.rand(len(x)) < 0.5
    return torch.where(flipped.view(-1, 1, 1, 1), x.flip(-1), x)
