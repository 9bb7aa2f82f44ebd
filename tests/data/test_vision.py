import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from law_lightning.data import (
    CIFAR10DataModule,
    CIFAR100DataModule,
    Compose,
    DiscardClasses,
    FashionMNISTDataModule,
    ImageFolderDataModule,
    ImageNetDataModule,
    MNISTDataModule,
    UniformNoise,
)
from tiny_data import write_cifar, write_folders, write_mnist

SMALL = {"train_size": 120, "val_size": 60}


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    x, y = write_cifar(tmp_path, monkeypatch)
    return tmp_path, x, torch.as_tensor(y)


def ready(module):
    module.prepare_data()
    module.setup()
    return module


def part(module, name):
    """All inputs and labels of a part, in its own order."""
    dataset = module._datasets[name]
    xs, ys = zip(*(dataset[i] for i in range(len(dataset))), strict=True)
    return torch.stack(xs), torch.tensor(ys)


def raw(x):
    """CIFAR images as the evaluation transform should give them, by NumPy."""
    mean, std = (np.asarray(each, dtype=np.float32) for each in CIFAR10DataModule.statistics)
    return torch.from_numpy(((x.astype(np.float32) / 255 - mean) / std).transpose(0, 3, 1, 2))


def test_cifar_search_split(cifar):
    root, x, y = cifar
    module = ready(CIFAR10DataModule(root, **SMALL, batch_size=50))
    assert (module.in_shape, module.num_classes) == ((3, 32, 32), 10)
    assert [len(module._datasets[name]) for name in ("train", "val", "test")] == [120, 60, 40]
    val_x, val_y = part(module, "val")
    clean_x, clean_y = part(module, "clean")
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(val_x, raw(x[order[:60]]), rtol=0, atol=1e-6)
    torch.testing.assert_close(clean_x, raw(x[order[60:180]]), rtol=0, atol=1e-6)
    assert torch.equal(val_y, y[order[:60]])
    assert torch.equal(clean_y, y[order[60:180]])
    batch, labels = next(iter(module.train_dataloader()))
    assert (batch.shape, batch.dtype, labels.dtype) == ((50, 3, 32, 32), torch.float32, torch.int64)


def test_cifar_full_and_holdout_splits(cifar):
    root, _, y = cifar
    full = ready(CIFAR10DataModule(root, split="full"))
    assert torch.equal(part(full, "clean")[1], y)
    assert full.val_dataloader() == []
    assert len(full.test_dataloader().dataset) == 40
    searched, module = ready(CIFAR10DataModule(root, **SMALL)), ready(CIFAR10DataModule(root, split="holdout", **SMALL))
    assert torch.equal(part(module, "val")[1], part(searched, "val")[1])
    assert sorted(module._datasets["train"].rows + module._datasets["val"].rows) == list(range(200))


def test_per_class_sizes(cifar):
    root, *_ = cifar
    module = ready(CIFAR10DataModule(root, train_size=7, val_size=3, per_class=True))
    assert torch.bincount(part(module, "clean")[1]).tolist() == [7] * 10
    assert torch.bincount(part(module, "val")[1]).tolist() == [3] * 10
    assert not set(module._datasets["clean"].rows) & set(module._datasets["val"].rows)
    with pytest.raises(ValueError, match="Class 0 of CIFAR-10 has 20 training images, too few for 8 validation and 15"):
        ready(CIFAR10DataModule(root, train_size=15, val_size=8, per_class=True))


def test_noise_is_on_training_labels_alone_and_the_truth_stays_in_the_record(cifar):
    root, _, y = cifar
    corruption = Compose([DiscardClasses([0, 1], 0.5), UniformNoise(0.5, seed=4)])
    module = ready(CIFAR10DataModule(root, **SMALL, batch_size=120, corruption=corruption))
    dataset, record = module._datasets["train"], module.corruption_record
    assert torch.equal(record.true_labels, y[torch.tensor(dataset.rows)])
    assert dataset.labels == record.labels.tolist() != record.true_labels.tolist()
    assert len(dataset) < 120
    assert torch.equal(part(module, "val")[1], y[torch.tensor(module._datasets["val"].rows)])
    (_, labels), wrong = next(iter(module.analysis_dataloader()))
    assert sorted(labels[wrong].tolist()) == sorted(record.labels[record.indices].tolist())


@pytest.mark.parametrize(
    ("cls", "write", "in_shape", "mirrored"),
    [
        (CIFAR10DataModule, lambda root, patch: write_cifar(root, patch, train=100, test=20), (3, 32, 32), True),
        (CIFAR100DataModule, lambda root, patch: write_cifar(root, patch, 100, train=100, test=20), (3, 32, 32), True),
        (MNISTDataModule, lambda root, patch: write_mnist(root), (1, 28, 28), False),
        (FashionMNISTDataModule, lambda root, patch: write_mnist(root, "FashionMNIST"), (1, 28, 28), True),
    ],
)
def test_the_small_images(tmp_path, monkeypatch, cls, write, in_shape, mirrored):
    write(tmp_path, monkeypatch)
    module = ready(cls(tmp_path, train_size=None, val_size=30))
    assert (module.in_shape, module.num_classes) == (in_shape, 100 if cls is CIFAR100DataModule else 10)
    assert [len(module._datasets[part]) for part in ("train", "val", "test")] == [70, 30, 20]
    torch.manual_seed(0)  # MNIST is not augmented by default
    is_plain = torch.equal(module._datasets["train"][0][0], module._datasets["clean"][0][0])
    assert is_plain == (in_shape[0] == 1)
    crop, *others = cls(tmp_path, augment=True).default_transforms()[0].transforms
    assert (tuple(crop.size), crop.padding) == (in_shape[1:], [4] * 4)
    assert isinstance(others[0], v2.RandomHorizontalFlip) == mirrored


def test_image_folders(tmp_path):
    write_folders(tmp_path, parts=("train", "test", "val"), each=8)
    module = ready(ImageFolderDataModule(tmp_path, val_size=6, image_size=24))
    assert (module.in_shape, module.num_classes) == ((3, 24, 24), 3)
    x, y = next(iter(module.train_dataloader()))
    assert (x.shape, len(y)) == ((18, 3, 24, 24), 18)
    files = [module.source(index)["file"] for index in range(18)]
    assert len(set(files)) == 18
    labels = module.train_dataloader().dataset.labels
    classes = sorted({file.split("/")[1] for file in files})
    assert [file.split("/")[:2] for file in files] == [["train", classes[label]] for label in labels]
    module = ready(ImageNetDataModule(tmp_path, train_size=5, val_size=2, image_size=32))
    assert torch.bincount(part(module, "clean")[1]).tolist() == [5, 5, 5]
    assert torch.bincount(part(module, "val")[1]).tolist() == [2, 2, 2]
    assert len(module._datasets["test"]) == 24
    assert ImageNetDataModule(tmp_path).train_size == 100


def test_of_imagenet_s_channels_the_mean_is_taken_off_and_nothing_else():
    grey = Image.new("RGB", (40, 40), (102, 102, 102))  # 0.4
    for transform in ImageNetDataModule(image_size=32).default_transforms():
        expected = 0.4 - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
        torch.testing.assert_close(transform(grey), expected.expand(3, 32, 32))


def test_missing_and_damaged_cifar(tmp_path, cifar):
    with pytest.raises(ValueError, match=r"CIFAR-10 cannot be read from .*elsewhere/cifar-10-.*data.download=true"):
        ready(CIFAR10DataModule(tmp_path / "elsewhere"))
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"CIFAR-10 cannot be read from .*cifar-10-batches-py .*corrupted"):
        ready(CIFAR10DataModule(tmp_path))


def test_without_torchvision_the_data_are_not_blamed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ImportError, match="torchvision"):
        ready(CIFAR10DataModule(tmp_path))


def test_missing_folders_are_named(tmp_path):
    message = r"no folder .*/train, or no images in it. .* train/<class>/\*\.jpg and"
    for _ in range(2):
        with pytest.raises(FileNotFoundError, match=message):
            ready(ImageFolderDataModule(tmp_path))
        (tmp_path / "train").mkdir(exist_ok=True)


def test_differing_classes_are_named(tmp_path):
    write_folders(tmp_path, parts=("train",), classes=4)
    write_folders(tmp_path, parts=("test",), classes=3)
    with pytest.raises(ValueError, match=r"train.* hold different classes: only one of them has n0003"):
        ready(ImageFolderDataModule(tmp_path, val_size=3))


@pytest.mark.parametrize("content", [b"no image", "half"])
def test_a_damaged_image_is_found_before_training(tmp_path, content):
    write_folders(tmp_path)
    path = tmp_path / "train" / "n0001" / "1.jpg"
    path.write_bytes(path.read_bytes()[:300] if content == "half" else content)
    with pytest.raises(ValueError, match=r"n0001/1\.jpg cannot be read as an image .* Replace or remove it"):
        ready(ImageFolderDataModule(tmp_path, val_size=3))
    ready(ImageFolderDataModule(tmp_path, val_size=3, verify=False))


@pytest.mark.parametrize(("name", "value"), [("split", "all"), ("val_size", 0), ("image_size", 0)])
def test_bad_arguments(tmp_path, name, value):
    with pytest.raises(ValueError, match=f"{name} is {value!r}, but it must be"):
        ImageFolderDataModule(tmp_path, **{name: value})
