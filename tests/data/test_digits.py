import pytest
import torch

from law_lightning.data import DigitsDataModule, UniformNoise


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


def test_training_inputs_are_standardised():
    x, _ = split(DigitsDataModule(), "train")
    assert abs(x.mean()) < 1e-5
    assert x.std(correction=0).item() == pytest.approx(1, abs=1e-5)


def test_splits_are_disjoint_and_together_the_digits():
    from sklearn.datasets import load_digits

    module = DigitsDataModule(train_size=300, val_size=400)
    parts = [split(module, name) for name in ("train", "val", "test")]
    found = sorted(zip(rows(torch.cat([x for x, _ in parts])), torch.cat([y for _, y in parts]).tolist(), strict=True))
    digits = load_digits()
    images = [tuple(row) for row in digits.data.astype(int).tolist()]
    # As multisets: every image is in one split, exactly once, under its own label.
    assert found == sorted(zip(images, digits.target.tolist(), strict=True))


def test_split_depends_on_split_seed_alone():
    torch.manual_seed(0)
    first = split(DigitsDataModule(), "train")[0]
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert torch.equal(split(DigitsDataModule(), "train")[0], first)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(split(DigitsDataModule(split_seed=1), "train")[0], first)


def test_validation_images_do_not_depend_on_train_size():
    small, large = (split(DigitsDataModule(train_size=n), "val")[1] for n in (100, 900))
    assert torch.equal(small, large)


def test_evaluation_labels_are_clean():
    plain, noisy = DigitsDataModule(), DigitsDataModule(corruption=UniformNoise(0.9))
    for name in ("val", "test"):
        assert torch.equal(split(plain, name)[1], split(noisy, name)[1])
    share_wrong = (split(plain, "train")[1] != split(noisy, "train")[1]).float().mean().item()
    assert share_wrong == pytest.approx(0.81, abs=0.07)


@pytest.mark.parametrize("sizes", [(0, 500), (500, 0), (-1, 5), (1297, 500), (5000, 500)])
def test_sizes_that_do_not_split_the_digits_are_named(sizes):
    with pytest.raises(ValueError, match=rf"train_size={sizes[0]} and val_size={sizes[1]} do not split the 1797"):
        DigitsDataModule(*sizes)


def test_missing_scikit_learn_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match="pip install scikit-learn"):
        DigitsDataModule().setup()
