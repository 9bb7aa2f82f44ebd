import re

import numpy as np
import pytest
import torch

from law_lightning.data import ArraysDataModule, DiscardClasses
from law_lightning.data.npz import likely_channels


def make_arrays(shape=(6, 5), dtype=np.float32, train=40, test=12, val=0):
    rng = np.random.default_rng(0)
    arrays = {}
    for name, n in (("train", train), ("test", test), ("val", val)):
        if n:
            x = rng.random((n, *shape)) * (255 if dtype == np.uint8 else 1)
            arrays |= {f"{name}_x": x.astype(dtype), f"{name}_y": np.arange(n) % 4}
    return arrays


@pytest.fixture
def save(tmp_path):
    def write(arrays, name="data.npz"):
        np.savez(tmp_path / name, **arrays)
        return tmp_path / name

    return write


def ready(path, **kwargs):
    module = ArraysDataModule(path, **kwargs)
    module.setup()
    return module


def part(module, name):
    dataset = getattr(module, f"{name}_dataloader")().dataset
    return dataset.x, dataset.y


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64, np.dtype(">f4")])
@pytest.mark.parametrize(
    ("shape", "in_shape"),
    [((7,), (7,)), ((6, 5), (1, 6, 5)), ((6, 5, 3), (3, 6, 5)), ((6, 5, 4), (4, 6, 5)), ((2, 6, 5), (2, 6, 5))],
)
def test_every_layout(save, dtype, shape, in_shape):
    arrays = make_arrays(shape, dtype)
    # Labels of any dtype and in a column.
    arrays["train_y"] = arrays["train_y"].astype(np.uint8)[:, None]
    module = ready(save(arrays))
    assert module.in_shape == in_shape
    assert module.num_classes == 4
    # Against plain numpy: the test inputs, standardised with the training samples that were used.
    train, _ = part(module, "train")
    got, labels = part(module, "test")
    raw = {k: v.astype(np.float64) / (255 if dtype == np.uint8 else 1) for k, v in arrays.items()}
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0)).numpy()
    used, test = raw["train_x"][order[8:]], raw["test_x"]
    if shape[-1] != in_shape[-1]:  # channels come last
        used, test = np.moveaxis(used, -1, 1), np.moveaxis(test, -1, 1)
    used, test = used.reshape(-1, *in_shape), test.reshape(-1, *in_shape)
    vector_axes = (0, 1) if dtype == np.uint8 else (0,)
    axes = vector_axes if len(shape) == 1 else (0, 2, 3)
    mean, std = used.mean(axes, keepdims=True), used.std(axes, keepdims=True)
    np.testing.assert_allclose(got.numpy(), (test - mean) / std, atol=1e-5)
    np.testing.assert_allclose(train.numpy(), (used - mean) / std, atol=1e-5)
    assert labels.tolist() == arrays["test_y"].tolist()


def test_channels_can_be_said(save):
    path = save(make_arrays((4, 4, 4)))
    with pytest.raises(ValueError, match=r"channels could be first or last. Say channels='first'"):
        ready(path)
    first, last = (part(ready(path, channels=where), "test")[0] for where in ("first", "last"))
    assert not torch.equal(first, last)
    assert ready(save(make_arrays((6, 5, 2))), channels="last").in_shape == (2, 6, 5)


@pytest.mark.parametrize(
    ("shape", "where"),
    [
        ((2, 64, 64), "first"),
        ((64, 64, 2), "last"),
        ((13, 64, 48), "first"),
        ((48, 64, 13), "last"),
        ((5, 12, 10), "first"),
        ((1, 128, 9), "first"),
        ((1, 2, 2), "first"),
        ((9, 128, 1), "last"),
        ((8, 8, 3), "last"),
        ((13, 4, 4), None),
        ((2, 3, 3), None),
        ((5, 8, 8), None),
        ((8, 8, 8), None),
        ((13, 20, 20), None),
        ((10, 20, 8), None),
        ((512, 7, 7), None),
        ((64, 64, 4), "last"),
        ((3, 64, 4), None),
        ((22, 1, 1000), None),
    ],
)
def test_channels_are_asked_for_where_they_are_not_certain(save, shape, where):
    assert likely_channels(shape) == where
    path = save(make_arrays(shape, train=5, test=1) | {"train_y": np.arange(5) % 2, "test_y": np.zeros(1, int)})
    if where is None:
        with pytest.raises(ValueError, match=r"Say channels='first' or channels='last' \(data\.channels=\)"):
            ready(path)
    else:
        assert ready(path).in_shape == (shape if where == "first" else (shape[2], *shape[:2]))


@pytest.mark.parametrize(("val_size", "num_val"), [(0.25, 10), (7, 7), (0.001, 1)])
def test_validation_is_cut_out_of_the_training_samples(save, val_size, num_val):
    # One-dimensional inputs that number the samples; standardising keeps their order.
    arrays = make_arrays() | {"train_x": np.arange(40.0)[:, None], "test_x": np.arange(12.0)[:, None]}
    module = ready(save(arrays), val_size=val_size)
    train, val = part(module, "train")[0], part(module, "val")[0]
    assert (len(train), len(val)) == (40 - num_val, num_val)
    gaps = torch.cat([train, val]).flatten().sort().values.diff()
    # All 40 numbers, equally spaced: no sample is lost and none is in both.
    assert torch.allclose(gaps, gaps[0].expand_as(gaps), rtol=1e-3)


@pytest.mark.parametrize(
    ("options", "said"), [({}, "8 of its 40"), ({"val_size": 7, "train_size": 9}, "7 of its 40 .*val_size=7")]
)
def test_validation_samples_of_the_training_arrays_are_told(save, monkeypatch, options, said):
    told = []
    monkeypatch.setattr("law_lightning.data.arrays.rank_zero_info", told.append)
    module = ready(path := save(make_arrays()), **options)
    assert re.search(rf"{path} has no val_x and val_y: {said}", module.validation_note)
    assert told == [module.validation_note]
    assert ready(save(make_arrays(val=9)), **options).validation_note is None
    assert len(told) == 1


def test_further_arrays_in_a_file_are_not_read(save):
    names = np.array(["cat", None], dtype=object)  # reading it would be refused
    assert ready(save(make_arrays() | {"class_names": names})).num_classes == 4


def test_split_depends_on_split_seed_alone_and_smaller_choices_are_nested(save):
    path = save(make_arrays())
    torch.manual_seed(0)
    first = part(ready(path), "val")[1]
    torch.manual_seed(5)
    assert torch.equal(part(ready(path), "val")[1], first)
    assert torch.equal(part(ready(path, train_size=5), "val")[1], first)
    assert not torch.equal(part(ready(path, split_seed=1), "val")[1], first)
    small, large = (part(ready(path, train_size=n), "train")[1] for n in (5, 20))
    assert torch.equal(small, large[:5])


def test_the_files_own_validation_samples_are_used(save):
    arrays = make_arrays(val=9)
    module = ready(save(arrays), val_size=0.5, train_size=30)
    assert part(module, "val")[1].tolist() == arrays["val_y"].tolist()
    assert len(part(module, "train")[1]) == 30
    assert len(part(ready(save(arrays)), "train")[1]) == 40


@pytest.mark.parametrize("options", [{}, {"corruption": DiscardClasses([0], 0.5)}, {"train_size": 20}])
def test_the_source_of_a_sample_is_its_row_in_the_file(save, options):
    arrays = make_arrays(shape=(3,))
    arrays["train_x"][:, 0] = np.arange(40)
    module = ready(save(arrays), **options)
    x = part(module, "train")[0][:, 0]  # standardised, so in the same order
    rows = torch.tensor([module.source(index)["row"] for index in range(len(x))])
    assert torch.equal(x.argsort(), rows.argsort())
    assert len(rows.unique()) == len(x) < 40


def test_flip_touches_training_batches_alone(save):
    path = save(make_arrays(train=200))
    plain, flipped = ready(path), ready(path, flip=True)
    assert torch.equal(next(iter(plain.val_dataloader()))[0], next(iter(flipped.val_dataloader()))[0])
    batches = []
    for module in (plain, flipped, flipped):
        torch.manual_seed(0)
        batches.append(next(iter(module.train_dataloader())))
    (original, y), (x, same_y), (same_x, _) = batches
    assert torch.equal(y, same_y)
    assert torch.equal(x, same_x)
    mirrored = (x == original.flip(-1)).flatten(1).all(1)
    assert ((x == original).flatten(1).all(1) ^ mirrored).all()
    assert 10 < mirrored.sum() < 54


def change(**replaced):
    return {key: value for key, value in (make_arrays() | replaced).items() if value is not None}


LABELS = np.arange(40) % 4
MISSING = r"lacks the arrays \['train_y', 'test_x'\]; it has \['test_y', 'train_x'\]"
CLASSES = "test_y in .* label 4, but there are 4 classes by num_classes or train_y"


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (change(train_y=None, test_x=None), MISSING),
        (change(val_x=np.zeros((3, 6, 5))), r"lacks the arrays \['val_y'\].* both or none"),
        (change(train_y=LABELS - 1), r"train_y in .* negative label -1, but classes count from 0"),
        (change(train_y=LABELS / 2), r"train_y in .* dtype float64, but labels must be integers"),
        (change(test_y=np.full(12, 4)), CLASSES),
        (change(train_y=LABELS * 1000), r"train_y .* up to 3000 but has only 4 classes"),
        (change(train_y=np.zeros((40, 3), int)), r"train_y in .* shape \[40, 3\]"),
        (change(train_y=LABELS[:39]), "40 samples in train_x but 39 labels in train_y"),
        (change(test_x=np.zeros((12, 5, 6))), r"test_x has shape \[1, 5, 6\], but one of train_x has \[1, 6, 5\]"),
        (change(test_x=np.zeros((12, 6, 5), np.uint8)), "partly uint8, .* partly float"),
        (change(train_x=np.zeros((40, 6, 5), int)), "train_x in .* dtype int64, .* uint8 .* float"),
        (change(train_x=np.zeros(40)), r"train_x in .* shape \[40\], but it must be \[N, D\]"),
        (change(test_x=np.zeros((0, 6, 5)), test_y=LABELS[:0]), "test_x in .* not empty"),
        (change(train_x=np.full((40, 6, 5), np.nan)), "train_x in .* not finite"),
        (change(train_x=np.array([np.zeros(2), None], dtype=object)), "cannot be read: .* Python objects"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(save, arrays, message):
    path = save(arrays)
    with pytest.raises(ValueError, match=message) as error:
        ready(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"train_size": 33}, "40 samples, too few for 8 validation and 33 training"),
        ({"val_size": 40}, "too few for 40 validation and at least one training"),
        ({"flip": True}, r"flip=True, shrink=1 need images .* shape \[7\]"),
        ({"flip": True, "transform": len}, "flip=True is a transform, and transform= another"),
        ({"shrink": 2}, r"flip=False, shrink=2 need images .* shape \[7\]"),
        ({"train_size": 0}, "train_size is 0"),
        ({"val_size": 0}, "val_size is 0, but it must be at least 1"),
        ({"val_size": 1.0}, "val_size is 1.0, but as a fraction"),
        ({"num_classes": 0}, "num_classes is 0"),
        ({"num_classes": 3}, "train_y in .* label 3, but there are 3 classes"),
        ({"channels": "middle"}, "channels is 'middle'"),
    ],
)
def test_bad_options_are_named(save, kwargs, message):
    with pytest.raises(ValueError, match=message):
        ready(save(make_arrays((7,))), **kwargs)


def test_missing_and_foreign_files_are_named(tmp_path):
    path = tmp_path / "data.npy"
    with pytest.raises(FileNotFoundError, match=r"no data file at .*data\.npy"):
        ready(path)
    for content in (b"", b"train_x,train_y"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"data\.npy cannot be read: it is damaged"):
            ready(path)
    np.save(path, np.zeros(3))
    with pytest.raises(ValueError, match=r"data\.npy is a single array"):
        ready(path)
