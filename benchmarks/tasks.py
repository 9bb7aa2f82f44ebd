"""The tasks of ``search.py``: a network, its data and its training, each for a question of its own.

Everything here pickles by name, since searches and the benchmark start processes of their own.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from torch import nn

from law_lightning.data import ArraysDataModule, DigitsDataModule, PairNoise, UniformNoise
from law_lightning.data.corruption.noise import Noise
from law_lightning.models import MLP, ImageClassifier

Arrays = dict[str, np.ndarray[Any, Any]]

DIGITS = ("digits_noise40", "digits_noise20", "digits_clean", "digits_tail")
CIFAR = ("cifar_noise40", "cifar_flip")
#: Digits whose validation labels have the training labels' noise, or not.
NOISY = tuple(
    f"digits_{noise}{val}" for noise in ("uniform40", "uniform20", "pair40", "pair20") for val in ("", "_val")
)
NAMES = (*DIGITS, *CIFAR, *NOISY)

#: Splits, noise and network seeds come in draws: settings are chosen on some, and what is reported comes from others.
CHOOSING, REPORTED = 0, 1
#: Of the learning rate, as in all rows that are kept.
MILESTONES = (0.5, 0.65, 0.8)
#: Those of CIFAR-10 share no image; it has no more test images than for two.
CIFAR_DRAWS = (CHOOSING, REPORTED)


@dataclass(frozen=True)
class Task:
    """A training that weights may improve.

    Attributes:
        name: of the task.
        make_module: makes a fresh network.
        make_datamodule: makes the data.
        epochs: of a training.
        draw: of its data and of all seeds.
    """

    name: str
    make_module: Callable[[], L.LightningModule]
    make_datamodule: Callable[[], L.LightningDataModule]
    epochs: int
    draw: int = CHOOSING

    @property
    def trainer_kwargs(self) -> dict[str, Any]:
        """For the Trainer."""
        return {"max_epochs": self.epochs, "accelerator": "cpu"}


def make_mlp() -> L.LightningModule:
    """An MLP that fits a few hundred digits whatever their labels."""
    return ImageClassifier(MLP((1, 8, 8), 10, hidden=(128, 128)), lr=0.1, milestones=MILESTONES)


def make_cnn(hidden: int) -> L.LightningModule:
    """Two strided convolutions and a hidden layer, on 3x16x16.

    Args:
        hidden: width of that layer; it decides how much the network can memorise.
    """
    layers: list[nn.Module] = []
    for before, after in ((3, 16), (16, 32)):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    layers += [nn.Flatten(), nn.Linear(32 * 4 * 4, hidden), nn.ReLU(), nn.Linear(hidden, 10)]
    return ImageClassifier(nn.Sequential(*layers), lr=0.05, milestones=MILESTONES)


def make_digits(
    noise: float, draw: int = CHOOSING, kind: type[Noise] = UniformNoise, validation: bool = False
) -> L.LightningDataModule:
    """500 training digits with replaced labels; with ``validation`` the 500 validation labels too."""
    corruption = kind(noise, draw) if noise else None
    return DigitsDataModule(
        500, 500, split_seed=draw, batch_size=128, corruption=corruption, corrupt_validation=validation
    )


def make_arrays(path: Path, noise: float = 0.0, flip: bool = False, draw: int = CHOOSING) -> L.LightningDataModule:
    """The arrays of a file that :func:`prepare` wrote."""
    corruption = UniformNoise(noise, draw) if noise else None
    return ArraysDataModule(path, batch_size=128, corruption=corruption, flip=flip, num_classes=10)


def make_tasks(cache: Path, draw: int = CHOOSING) -> dict[str, Task]:
    """All tasks by name.

    Args:
        cache: folder for the arrays that :func:`prepare` writes.
        draw: of data and seeds.
    """
    digits = partial(partial, make_digits, draw=draw)
    arrays = partial(make_arrays, _file(cache, "cifar", draw), noise=0.4, draw=draw)
    tail = partial(make_arrays, _file(cache, "digits_tail", draw), draw=draw)
    tasks = [
        Task("digits_noise40", make_mlp, digits(0.4), 60),  # an MLP that memorises much noise
        Task("digits_noise20", make_mlp, digits(0.2), 60),  # the same with half the noise
        Task("digits_clean", make_mlp, digits(0.0), 60),  # nothing to repair: do no harm
        Task("digits_tail", make_mlp, tail, 150),  # rare classes, balanced test
        Task("cifar_noise40", partial(make_cnn, 128), arrays, 30),  # a CNN that memorises the noise
        Task("cifar_flip", partial(make_cnn, 64), partial(arrays, flip=True), 15),  # one that hardly does
    ]
    for name in NOISY:
        kind = PairNoise if "pair" in name else UniformNoise
        make = digits(0.4 if "40" in name else 0.2, kind=kind, validation=name.endswith("_val"))
        tasks.append(Task(name, make_mlp, make, 60))
    return {task.name: replace(task, draw=draw) for task in tasks}


def _file(cache: Path, name: str, draw: int) -> Path:
    return cache / f"{name}_draw{draw}.npz"


# -- arrays that are written once ------------------------------------------------------------------------------


def prepare(names: list[str], cache: Path, cifar: Path | None, draw: int = CHOOSING) -> None:
    """Write the files that the named tasks read, unless they exist.

    Args:
        names: of tasks.
        cache: where to.
        cifar: an ``.npz`` file of CIFAR-10: train_x [50000, 32, 32, 3] uint8, train_y, test_x, test_y.
        draw: of the data.

    Raises:
        ValueError: a task needs CIFAR-10, and no file was given, or it has no such draw.
    """
    wanted: dict[Path, Callable[[], Arrays]] = {}
    if "digits_tail" in names:
        wanted[_file(cache, "digits_tail", draw)] = partial(long_tailed_digits, draw)
    if any(name in CIFAR for name in names):
        if draw not in CIFAR_DRAWS:
            raise ValueError(f"CIFAR-10 has images for the draws {CIFAR_DRAWS}, not for {draw}.")
        path = _file(cache, "cifar", draw)
        if cifar is None and not path.is_file():
            raise ValueError(f"The tasks {', '.join(CIFAR)} need CIFAR-10: give --cifar PATH, or leave them out.")
        wanted[path] = partial(pooled_cifar, cifar, draw)
    for path, make in wanted.items():
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            partial_path = path.with_name(f"{path.stem}.{os.getpid()}.partial.npz")
            np.savez(partial_path, **make())
            partial_path.replace(path)  # a stop leaves no half of it


def long_tailed_digits(draw: int = CHOOSING) -> Arrays:
    """Digits of which class c has ``max(2, round(60 * 0.02 ** (c / 9)))`` training images: 60 zeros, two nines."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    x, y = digits.images.astype(np.float32)[:, None] / 16, digits.target
    order = np.random.default_rng(draw).permutation(len(y))
    test, val, pool = np.split(order, (600, 1100))
    kept = [pool[y[pool] == c][: max(2, round(60 * 0.02 ** (c / 9)))] for c in range(10)]
    train = np.concatenate(kept)
    return {
        f"{name}_{part}": array[rows]
        for name, rows in (("train", train), ("val", val), ("test", test))
        for part, array in (("x", x), ("y", y))
    }


def pooled_cifar(path: Path, draw: int = CHOOSING, train: int = 5000, val: int = 2000, test: int = 5000) -> Arrays:
    """A random part of CIFAR-10, 2x2 average-pooled to float32 [N, 3, 16, 16] in [0, 1]; no image is in two draws."""
    rng = np.random.default_rng(0)
    with np.load(path) as file:
        x, y, test_x, test_y = (file[key] for key in ("train_x", "train_y", "test_x", "test_y"))
    chosen = rng.permutation(len(y))[draw * (val + train) :]
    val_rows, train_rows = chosen[:val], chosen[val : val + train]
    test_rows = rng.permutation(len(test_y))[draw * test :][:test]
    return {
        "train_x": _pooled(x[train_rows]), "train_y": y[train_rows],
        "val_x": _pooled(x[val_rows]), "val_y": y[val_rows],
        "test_x": _pooled(test_x[test_rows]), "test_y": test_y[test_rows],
    }  # fmt: skip


def _pooled(images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    count, height, width, channels = images.shape
    blocks = images.reshape(count, height // 2, 2, width // 2, 2, channels).mean((2, 4), dtype=np.float32) / 255
    return np.ascontiguousarray(blocks.transpose(0, 3, 1, 2))
