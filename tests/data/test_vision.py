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
    LabelFile,
    MNISTDataModule,
    UniformNoise,
)
from law_lightning.data.transforms import CIFAR10_STATISTICS
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
    mean, std = (np.asarray(each, dtype=np.float32) for each in CIFAR10_STATISTICS)
    return torch.from_numpy(((x.astype(np.float32) / 255 - mean) / std).transpose(0, 3, 1, 2))


def test_cifar_search_split(cifar):
    root, x, y = cifar
    module = ready(CIFAR10DataModule(root, **SMALL, batch_size=50))
    assert (module.in_shape, module.num_classes) == ((3, 32, 32), 10)
    assert [len(module._datasets[name]) for name in ("train", "val", "test")] == [120, 60, 40]
    val_x, val_y = part(module, "val")
    clean_x, clean_y = part(module, "clean")
    both = {tuple(image.flatten().tolist()) for image in torch.cat([val_x, clean_x])}
    assert len(both) == 180  # no image is in both
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


def test_training_images_are_padded_cropped_and_mirrored_by_the_global_seed(cifar):
    root, *_ = cifar
    dataset = ready(CIFAR10DataModule(root, **SMALL))._datasets["train"]
    plain = ready(CIFAR10DataModule(root, **SMALL))._datasets["clean"]
    torch.manual_seed(3)
    got = [dataset[0][0] for _ in range(20)]
    torch.manual_seed(3)
    assert all(torch.equal(dataset[0][0], image) for image in got)
    assert len({tuple(image.flatten().tolist()) for image in got}) > 10
    # Each is one of the 81 crops of the padded image, mirrored or not.
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in CIFAR10_STATISTICS)
    padded = torch.nn.functional.pad(plain[0][0] * std + mean, (4, 4, 4, 4))
    crops = [padded[:, i : i + 32, j : j + 32] for i in range(9) for j in range(9)]
    crops = [(each - mean) / std for crop in crops for each in (crop, crop.flip(-1))]
    for image in got:
        assert min(float((image - crop).abs().max()) for crop in crops) < 1e-5


def test_the_split_ignores_the_global_seed_and_keeps_validation_when_train_size_changes(cifar):
    root, *_ = cifar
    torch.manual_seed(1)
    first = part(ready(CIFAR10DataModule(root, **SMALL)), "val")[1]
    torch.manual_seed(2)
    assert torch.equal(part(ready(CIFAR10DataModule(root, train_size=20, val_size=60)), "val")[1], first)
    assert not torch.equal(part(ready(CIFAR10DataModule(root, **SMALL, split_seed=1)), "val")[1], first)


def test_per_class_sizes(cifar):
    root, *_ = cifar
    module = ready(CIFAR10DataModule(root, train_size=7, val_size=3, per_class=True))
    assert torch.bincount(part(module, "clean")[1]).tolist() == [7] * 10
    assert torch.bincount(part(module, "val")[1]).tolist() == [3] * 10
    assert not set(module._datasets["clean"].rows) & set(module._datasets["val"].rows)


@pytest.mark.parametrize("discarded", [False, True])
def test_noise_is_on_training_labels_alone_and_the_truth_stays_in_the_record(cifar, discarded):
    root, _, y = cifar
    noise = UniformNoise(0.5, seed=4)
    corruption = Compose([DiscardClasses([0, 1], 0.5), noise]) if discarded else noise
    module = ready(CIFAR10DataModule(root, **SMALL, batch_size=120, corruption=corruption))
    dataset, record = module._datasets["train"], module.corruption_record
    assert torch.equal(record.true_labels, y[torch.tensor(dataset.rows)])
    assert dataset.labels == record.labels.tolist() != record.true_labels.tolist()
    assert (len(dataset) < 120) == discarded
    assert torch.equal(part(module, "val")[1], y[torch.tensor(module._datasets["val"].rows)])
    assert len(part(module, "test")[1]) == 40
    (_, labels), wrong = next(iter(module.analysis_dataloader()))
    counted = torch.bincount(record.labels[record.indices], minlength=10)
    assert torch.equal(torch.bincount(torch.as_tensor(labels)[wrong], minlength=10), counted)


def test_a_label_file_is_for_the_whole_training_part(cifar, tmp_path):
    root, _, y = cifar
    people = (y + (torch.arange(200) % 4 == 0)) % 10
    np.save(tmp_path / "people.npy", people.numpy())
    module = ready(CIFAR10DataModule(root, **SMALL, corruption=LabelFile(tmp_path / "people.npy")))
    assert module._datasets["train"].labels == people[module._datasets["train"].rows].tolist()


def test_cifar_100(tmp_path, monkeypatch):
    write_cifar(tmp_path, monkeypatch, classes=100, train=300)
    module = ready(CIFAR100DataModule(tmp_path, train_size=200, val_size=100))
    assert module.num_classes == 100
    assert int(part(module, "clean")[1].max()) == 99


@pytest.mark.parametrize(("cls", "name"), [(MNISTDataModule, "MNIST"), (FashionMNISTDataModule, "FashionMNIST")])
def test_mnist(tmp_path, cls, name):
    write_mnist(tmp_path, name)
    module = ready(cls(tmp_path, val_size=30))
    assert (module.in_shape, module.num_classes) == ((1, 28, 28), 10)
    assert [len(module._datasets[part]) for part in ("train", "val", "test")] == [70, 30, 20]
    assert torch.equal(module._datasets["train"][0][0], module._datasets["clean"][0][0])
    kinds = [type(each) for each in cls(tmp_path, augment=True).default_transforms()[0].transforms]
    assert v2.RandomCrop in kinds
    assert (v2.RandomHorizontalFlip in kinds) == (name == "FashionMNIST")


def test_image_folder(tmp_path):
    write_folders(tmp_path)
    module = ready(ImageFolderDataModule(tmp_path, val_size=6, image_size=24))
    assert (module.in_shape, module.num_classes) == ((3, 24, 24), 3)
    x, y = next(iter(module.train_dataloader()))
    assert (x.shape, len(y)) == ((12, 3, 24, 24), 12)


def test_imagenet_layout(tmp_path):
    write_folders(tmp_path, parts=("train", "val"), each=8)
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


# -- faults ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", [None, b"no"])
def test_missing_and_damaged_cifar(tmp_path, cifar, damage):
    with pytest.raises(
        FileNotFoundError, match=r"CIFAR-10 is not in .*elsewhere/cifar-10-batches-py.*data.download=true"
    ):
        ready(CIFAR10DataModule(tmp_path / "elsewhere"))
    path = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    path.unlink() if damage is None else path.write_bytes(damage)
    with pytest.raises(
        ValueError, match=r"cifar-10-batches-py cannot be read as CIFAR-10, some are missing or damaged"
    ):
        ready(CIFAR10DataModule(tmp_path))


def test_missing_and_damaged_mnist(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"MNIST is not in .*MNIST/raw.*data.download=true"):
        ready(MNISTDataModule(tmp_path))
    write_mnist(tmp_path)
    (tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte").write_bytes(b"\x00\x00\x08\x03rubbish")
    with pytest.raises(ValueError, match=r"MNIST/raw cannot be read as MNIST, some are missing or damaged"):
        ready(MNISTDataModule(tmp_path, val_size=30))


def test_missing_folders_are_named(tmp_path):
    for _ in range(2):
        with pytest.raises(
            FileNotFoundError, match=r"no folder .*/train, or no images in it. .* train/<class>/\*\.jpg and"
        ):
            ready(ImageFolderDataModule(tmp_path))
        (tmp_path / "train").mkdir(exist_ok=True)


def test_differing_classes_are_named(tmp_path):
    write_folders(tmp_path, parts=("train",), classes=4)
    write_folders(tmp_path, parts=("test",), classes=3)
    with pytest.raises(ValueError, match=r"train.* hold different classes: only one of them has n0003"):
        ready(ImageFolderDataModule(tmp_path, val_size=3))


@pytest.mark.parametrize("content", [b"", b"no image", "half"])
def test_a_damaged_image_is_found_before_training(tmp_path, content):
    write_folders(tmp_path)
    path = tmp_path / "train" / "n0001" / "1.jpg"
    path.write_bytes(path.read_bytes()[:300] if content == "half" else content)
    with pytest.raises(ValueError, match=r"1 of 18 image files are damaged or no images: .*n0001/1\.jpg\. Replace"):
        ready(ImageFolderDataModule(tmp_path, val_size=3))
    module = ready(ImageFolderDataModule(tmp_path, val_size=3, image_size=24, verify=False))
    dataset = module._datasets["train"]
    dataset.rows = [next(i for i, (name, _) in enumerate(dataset.source.samples) if name == str(path))]
    with pytest.raises(ValueError, match=r"n0001/1\.jpg cannot be read as an image"):
        dataset[0]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"split": "all"}, "split is 'all', but it must be 'search', 'holdout' or 'full'"),
        ({"train_size": 0}, "train_size is 0"),
        ({"val_size": 0}, "val_size is 0"),
        ({"image_size": 0}, "image_size is 0"),
    ],
)
def test_bad_arguments(tmp_path, kwargs, message):
    with pytest.raises(ValueError, match=message):
        ImageFolderDataModule(tmp_path, **kwargs)


def test_a_split_larger_than_the_data(cifar):
    root, *_ = cifar
    with pytest.raises(ValueError, match="CIFAR-10 has 200 training images, too few for 60 validation and 150"):
        ready(CIFAR10DataModule(root, train_size=150, val_size=60))
    with pytest.raises(ValueError, match="too few for 200 validation and at least one"):
        ready(CIFAR10DataModule(root, train_size=None, val_size=200))
    with pytest.raises(ValueError, match="Class 0 of CIFAR-10 has 20 images, too few for 8 validation and 15"):
        ready(CIFAR10DataModule(root, train_size=15, val_size=8, per_class=True))
