"""Images that stay on the device, where whole batches are cropped, mirrored and standardised.

A decoding loader feeds a small network on a large GPU too slowly. Here a batch costs a dozen operations on the device,
and an epoch one copy of its random numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import lightning as L
import torch
from torch import Tensor
from torch.nn import functional as F

from law_lightning.data.transforms import CIFAR10_STATISTICS

#: Zeros at each side of a training image before it is cropped to its own size.
PAD = 4

Batch = tuple[Tensor, Tensor]
Split = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Draws:
    """What is random in an epoch, by the order in which the samples are seen.

    Attributes:
        order: a permutation of the samples, int64 [N].
        corner: row and column where the crop of each padded image begins, int64 [2, N].
        mirrored: which images are mirrored, bool [N].
    """

    order: Tensor
    corner: Tensor
    mirrored: Tensor

    @classmethod
    def of_epoch(cls, number: int) -> Draws:
        """Draw an epoch from torch's global CPU generator, so that the seed of the training decides it."""
        return cls(torch.randperm(number), torch.randint(2 * PAD + 1, (2, number)), torch.rand(number) < 0.5)

    def split(self, size: int, device: torch.device) -> list[Draws]:
        """The draws of each batch, on the device."""
        parts = [each.to(device).split(size, dim=-1) for each in (self.order, self.corner, self.mirrored)]
        return [Draws(*batch) for batch in zip(*parts, strict=True)]


def padded(images: Tensor) -> Tensor:
    """Images [N, H, W, C] with zeros around them, [N, H + 2 PAD, W + 2 PAD, C]."""
    return F.pad(images, (0, 0, PAD, PAD, PAD, PAD))


def augmented(images: Tensor, draws: Draws) -> Tensor:
    """Cut a batch of crops out of padded images, some of them mirrored, in one indexing operation.

    Args:
        images: all of them, [N, H + 2 PAD, W + 2 PAD, C].
        draws: of the batch.

    Returns:
        [B, H, W, C].
    """
    height, width = (torch.arange(side - 2 * PAD, device=images.device) for side in images.shape[1:3])
    rows = draws.corner[0, :, None] + height
    columns = draws.corner[1, :, None] + torch.where(draws.mirrored[:, None], width.flip(0), width)
    return images[draws.order[:, None, None], rows[:, :, None], columns[:, None, :]]


def standardised(images: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """From uint8 [B, H, W, C] to float32 [B, C, H, W], channels last in memory, of mean 0 and deviation 1.

    Args:
        images: pixels from 0 to 255.
        mean: of each channel, [C], of such pixels.
        deviation: likewise.
    """
    return ((images - mean) / deviation).permute(0, 3, 1, 2)


class Batches:
    """A loader of whole batches; the last one of an epoch may be smaller.

    Args:
        images: uint8 [N, H, W, C], on the device; for training :func:`padded`.
        labels: int64 [N], on the device.
        batch_size: samples a batch.
        training: whether to mix and augment them.
    """

    def __init__(self, images: Tensor, labels: Tensor, batch_size: int, training: bool = False) -> None:
        self._images, self._labels = images, labels
        self._batch_size = batch_size
        self._training = training
        # Here, as a batch should not wait for numbers to be copied.
        self._statistics = tuple(torch.tensor(each, device=images.device) * 255 for each in CIFAR10_STATISTICS)

    def __len__(self) -> int:
        return -(-len(self._labels) // self._batch_size)

    def __iter__(self) -> Iterator[Batch]:
        if not self._training:
            return self._in_order()
        # Drawn now, not with the first batch: whoever restores the random states restores the epoch.
        return self._mixed(Draws.of_epoch(len(self._labels)))

    def _in_order(self) -> Iterator[Batch]:
        for x, y in zip(self._images.split(self._batch_size), self._labels.split(self._batch_size), strict=True):
            yield standardised(x, *self._statistics), y

    def _mixed(self, draws: Draws) -> Iterator[Batch]:
        for batch in draws.split(self._batch_size, self._labels.device):
            yield standardised(augmented(self._images, batch), *self._statistics), self._labels[batch.order]


class DeviceImages(L.LightningDataModule):
    """Serves images from the Trainer's device, where they are copied once.

    Args:
        splits: images uint8 [N, H, W, C] and labels int64 [N] of ``train``, ``test`` and, where there is any, ``val``.
        batch_size: training samples a batch.
        eval_batch_size: validation and test samples a batch.
    """

    def __init__(self, splits: dict[str, Split], batch_size: int, eval_batch_size: int = 1000) -> None:
        super().__init__()
        self._splits = splits
        self._batch_size, self._eval_batch_size = batch_size, eval_batch_size
        self._on_device: dict[tuple[str, torch.device], Split] = {}

    def train_dataloader(self) -> Batches:
        """Mixed and augmented batches: float32 [B, C, H, W] and labels [B]."""
        return Batches(*self._moved("train"), self._batch_size, training=True)

    def val_dataloader(self) -> Batches | list[Batches]:
        """Batches in a fixed order; nothing where all data are trained on."""
        return Batches(*self._moved("val"), self._eval_batch_size) if "val" in self._splits else []

    def test_dataloader(self) -> Batches:
        """Batches in a fixed order."""
        return Batches(*self._moved("test"), self._eval_batch_size)

    def _moved(self, name: str) -> Split:
        device = torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device
        if (name, device) not in self._on_device:
            images, labels = (each.to(device) for each in self._splits[name])
            self._on_device[name, device] = (padded(images) if name == "train" else images, labels)
        return self._on_device[name, device]
