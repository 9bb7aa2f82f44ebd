"""Tiny data sets in the published ones' own file formats."""

import hashlib
import pickle
import struct

import numpy as np


def _images(number, classes, side, channels, seed):
    """Images whose brightness tells their class, so that training on them can learn something."""
    rng = np.random.default_rng(seed)
    labels = np.arange(number) % classes
    brightness = (labels * (170 // max(classes - 1, 1)))[:, None, None, None]
    return (rng.integers(0, 80, (number, side, side, channels)) + brightness).astype(np.uint8), labels


def write_cifar(root, monkeypatch, classes=10, train=200, test=40):
    """Write ``cifar-10-batches-py`` (``cifar-100-python`` at 100 classes) and let torchvision take its checksums."""
    from torchvision.datasets import CIFAR10, CIFAR100

    dataset, key = (CIFAR10, "labels") if classes == 10 else (CIFAR100, "fine_labels")
    folder = root / dataset.base_folder
    folder.mkdir(parents=True)
    x, y = _images(train, classes, 32, 3, 0)
    parts = np.array_split(np.arange(train), len(dataset.train_list))
    test_x, test_y = _images(test, classes, 32, 3, 1)
    files = {name: (x[rows], y[rows]) for (name, _), rows in zip(dataset.train_list, parts, strict=True)}
    files |= {dataset.test_list[0][0]: (test_x, test_y)}
    sums = {}
    for name, (images, labels) in files.items():
        entry = {"data": images.transpose(0, 3, 1, 2).reshape(len(images), -1), key: labels.tolist()}
        sums[name] = _dump(folder / name, entry)
    meta = dict(dataset.meta)
    names = [f"class {c}" for c in range(classes)]
    meta["md5"] = _dump(folder / meta["filename"], {meta["key"]: names})
    monkeypatch.setattr(dataset, "train_list", [[name, sums[name]] for name, _ in dataset.train_list])
    monkeypatch.setattr(dataset, "test_list", [[name, sums[name]] for name, _ in dataset.test_list])
    monkeypatch.setattr(dataset, "meta", meta)
    return x, y


def _dump(path, content):
    path.write_bytes(pickle.dumps(content, protocol=2))
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def write_mnist(root, name="MNIST", train=100, test=20):
    """Write the four idx files of ``MNIST/raw``."""
    folder = root / name / "raw"
    folder.mkdir(parents=True)
    for part, number, seed in (("train", train, 0), ("t10k", test, 1)):
        x, y = _images(number, 10, 28, 1, seed)
        images, labels = struct.pack(">IIII", 0x803, number, 28, 28), struct.pack(">II", 0x801, number)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(images + x.tobytes())
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(labels + y.astype(np.uint8).tobytes())


def write_folders(root, parts=("train", "test"), classes=3, each=6, side=40):
    """Write ``root/<part>/<class>/<number>.png`` (``.jpg`` for every other image)."""
    from PIL import Image

    for seed, part in enumerate(parts):
        x, y = _images(classes * each, classes, side, 3, seed)
        for number, (image, label) in enumerate(zip(x, y, strict=True)):
            folder = root / part / f"n{label:04d}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{number}.{'jpg' if number % 2 else 'png'}")
