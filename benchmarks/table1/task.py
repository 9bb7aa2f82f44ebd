"""The task: CIFAR-10 with noisy labels, its network, and the settings of a training.

Everything here pickles by name, since workers are processes of their own.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn

from law_lightning.data import CorruptionRecord, UniformNoise
from law_lightning.data.npz import read_npz
from law_lightning.data.preparation import permuted_indices
from law_lightning.models import ImageClassifier, SmallCNN
from table1.images import DeviceImages

NETWORKS = ("resnet18", "small")


@dataclass(frozen=True)
class Arrays:
    """The data set: images uint8 [N, H, W, C] and true labels int64 [N].

    Attributes:
        digest: tells one data set from another.
    """

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    digest: str

    @property
    def in_shape(self) -> tuple[int, int, int]:
        """Of one image, (channels, height, width)."""
        height, width, channels = self.train_x.shape[1:]
        return channels, height, width

    @property
    def num_classes(self) -> int:
        """C."""
        return int(self.train_y.max()) + 1


@cache
def read_arrays(path: Path) -> Arrays:
    """Read the data set.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds something else.
    """
    file = read_npz(path)
    names = ("train_x", "train_y", "test_x", "test_y")
    for name in names[::2]:
        if file[name].dtype != np.uint8 or file[name].ndim != 4:
            raise ValueError(
                f"{name} in {path} is {file[name].dtype} {list(file[name].shape)}, but must be uint8 [N, H, W, C]."
            )
    digest = hashlib.sha256()
    for name in names:
        digest.update(np.ascontiguousarray(file[name]).data)
    train_x, train_y, test_x, test_y = (torch.from_numpy(np.ascontiguousarray(file[name])) for name in names)
    return Arrays(train_x, train_y.long().flatten(), test_x, test_y.long().flatten(), digest.hexdigest()[:16])


@dataclass(frozen=True)
class Training:
    """How a network is trained, and on what.

    Attributes:
        epochs: of the training.
        batch_size: samples a batch.
        train_size: training images; None takes all that are not for validation.
        val_size: further training images, with their true labels, for validation.
        noise: probability that a training label is redrawn.
        noise_seed: of the noise. It is drawn for the whole data set, so an image has the same label in search and
            training.
        network: one of :data:`NETWORKS`.
        lr: learning rate at the start.
        accelerator: ``cpu`` or ``gpu``.
        precision: Lightning's.
        compiled: whether torch.compile compiles the network.
        deterministic: whether the GPU is to give the same bits every time.
    """

    epochs: int
    batch_size: int
    train_size: int | None
    val_size: int
    noise: float
    noise_seed: int
    network: str
    lr: float
    accelerator: str
    precision: str
    compiled: bool = False
    deterministic: bool = False

    def trainer_kwargs(self) -> dict[str, Any]:
        """For the Trainer: also worth knowing of by another process, so it is part of the arguments."""
        kwargs: dict[str, Any] = {"max_epochs": self.epochs, "accelerator": self.accelerator, "devices": 1}
        kwargs["precision"] = self.precision
        if self.accelerator == "gpu":
            kwargs |= {"deterministic": True} if self.deterministic else {"benchmark": True}
        return kwargs


def noisy_labels(arrays: Arrays, training: Training) -> CorruptionRecord:
    """The noise on the labels of the whole data set."""
    return UniformNoise(training.noise, training.noise_seed)(arrays.train_y, arrays.num_classes)


def make_data(path: Path, training: Training) -> L.LightningDataModule:
    """The data of a training.

    Args:
        path: of the data set.
        training: how it is split and what noise there is.

    Raises:
        ValueError: there are too few images.
    """
    arrays = read_arrays(path)
    size, val_size = len(arrays.train_y), training.val_size
    train_size = size - val_size if training.train_size is None else training.train_size
    if not 0 < train_size <= size - val_size:
        raise ValueError(f"{path} has {size} training images, too few for {train_size} and {val_size} to validate.")
    val, train, _ = permuted_indices(size, 0).split((val_size, train_size, size - train_size - val_size))
    splits = {
        "train": (arrays.train_x[train], noisy_labels(arrays, training).labels[train]),
        "test": (arrays.test_x, arrays.test_y),
    }
    if val_size:
        splits["val"] = (arrays.train_x[val], arrays.train_y[val])
    return DeviceImages(splits, training.batch_size)


def make_module(in_shape: tuple[int, int, int], num_classes: int, training: Training) -> L.LightningModule:
    """A fresh network, channels last in memory, trained as in the paper.

    Args:
        in_shape: of one image.
        num_classes: C.
        training: which network, and its learning rate.
    """
    if training.accelerator == "gpu":
        torch.set_float32_matmul_precision("high")  # TF32, where a product is not in bfloat16 anyway
    network = _make_network(training.network, in_shape, num_classes).to(memory_format=torch.channels_last)
    if training.compiled:
        network.compile()  # in place: the parameters keep their names
    return ImageClassifier(network, lr=training.lr)


def _make_network(name: str, in_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    if name == "small":
        return SmallCNN(in_shape, num_classes, channels=(8, 16))
    from law_lightning.models import cifar_resnet18  # needs torchvision, which tests do without

    return cifar_resnet18(in_shape, num_classes)
