import pytest
import torch

from law_lightning.data import DigitsDataModule


def split(module, name):
    module.setup()
    dataset = getattr(module, f"{name}_dataloader")().dataset
    return dataset.x, dataset.y


def rows(x):
    """Each image as a tuple of its grey levels: the standardisation differs between splits, so undo it."""
    levels = (x - x.min()) / (x.max() - x.min()) * 16
    return [tuple(row) for row in levels.round().flatten(1).int().tolist()]


def test_split_sizes_and_shapes():
    module = DigitsDataModule()
    sizes = {name: len(split(module, name)[0]) for name in ("train", "val", "test")}
    assert sizes == {"train": 500, "val": 500, "test": 797}
    assert module.in_shape == (1, 8, 8)
    assert module.num_classes == 10
    x, y = next(iter(module.train_dataloader()))
    assert x.shape == (64, 1, 8, 8)
    assert (x.dtype, y.dtype) == (torch.float32, torch.int64)


def test_splits_are_standardised_disjoint_and_together_the_digits():
    from sklearn.datasets import load_digits

    module = DigitsDataModule(train_size=300, val_size=400)
    parts = [split(module, name) for name in ("train", "val", "test")]
    found = sorted(zip(rows(torch.cat([x for x, _ in parts])), torch.cat([y for _, y in parts]).tolist(), strict=True))
    assert parts[0][0].mean().item() == pytest.approx(0, abs=1e-5)
    assert parts[0][0].std(correction=0).item() == pytest.approx(1, abs=1e-5)
    digits = load_digits()
    images = [tuple(row) for row in digits.data.astype(int).tolist()]
    # As multisets: every image is in one split, exactly once, under its own label.
    assert found == sorted(zip(images, digits.target.tolist(), strict=True))


@pytest.mark.parametrize("sizes", [(0, 500), (500, 0), (1297, 500)])
def test_sizes_that_do_not_split_the_digits_are_named(sizes):
    with pytest.raises(ValueError, match=rf"train_size={sizes[0]} and val_size={sizes[1]} do not split the 1797"):
        DigitsDataModule(*sizes)


def test_missing_scikit_learn_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match="pip install scikit-learn"):
        DigitsDataModule().setup()
