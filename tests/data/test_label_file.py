import re
import warnings
import zipfile

import numpy as np
import pytest
import torch

from hostile import Evil
from law_lightning.data import ArraysDataModule, Compose, DiscardClasses, LabelFile, PairNoise, UniformNoise

TRUE = torch.arange(30) % 3
GIVEN = (TRUE + (torch.arange(30) % 5 == 0)) % 3
LAST_IS_7 = np.where(np.arange(30) == 29, 7, GIVEN)


def write(path):
    array = GIVEN.numpy()
    if path.name == "human.pt":  # as CIFAR-N's: NumPy arrays, pickled
        torch.save({"worse_label": array, "clean_label": TRUE.numpy()}, path)
    elif path.suffix == ".pt":
        torch.save(GIVEN, path)
    elif path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".npz":
        np.savez(path, labels=array)
    else:
        path.write_text("\n".join(map(str, array.tolist())) + "\n")
    return path


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.pt", "a.txt", "a.csv", "human.pt"])
def test_every_format(tmp_path, name):
    key = "worse_label" if name == "human.pt" else None
    record = LabelFile(write(tmp_path / name), key)(TRUE, 3)
    assert record.labels.tolist() == GIVEN.tolist()
    assert record.selected.tolist() == record.indices.tolist() == list(range(0, 30, 5))
    assert record.settings == {"path": str(tmp_path / name), "key": key}


@pytest.mark.parametrize("dtype", ["<i8", ">i4", "u1"])
def test_every_kind_of_integer_and_a_column(tmp_path, dtype):
    torch.save({"a": np.asfortranarray(GIVEN.numpy().astype(dtype)[:, None])}, tmp_path / "a.pt")
    assert LabelFile(tmp_path / "a.pt")(TRUE, 3).labels.tolist() == GIVEN.tolist()


def test_arrays_that_the_other_numpy_pickled(tmp_path):
    torch.save({"a": GIVEN.numpy()}, tmp_path / "now.pt")
    names = [b"cnumpy.core.multiarray\n", b"cnumpy._core.multiarray\n"]
    other, ours = names if np.__version__ >= "2" else names[::-1]
    with zipfile.ZipFile(tmp_path / "now.pt") as plain, zipfile.ZipFile(tmp_path / "then.pt", "w") as changed:
        for name in plain.namelist():
            changed.writestr(name, plain.read(name).replace(ours, other))
        assert any(ours in plain.read(name) for name in plain.namelist())
    assert LabelFile(tmp_path / "then.pt")(TRUE, 3).labels.tolist() == GIVEN.tolist()


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("suffix", ["txt", "csv"])
def test_byte_order_marks(tmp_path, encoding, suffix):
    (path := tmp_path / f"a.{suffix}").write_text("\r\n".join(map(str, GIVEN.tolist())), encoding=encoding)
    assert LabelFile(path)(TRUE, 3).labels.tolist() == GIVEN.tolist()


def shuffled(labels):
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]


def warnings_of(path, labels, given, num_classes, key=None):
    np.savez(path, **{key or "a": given.numpy()})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        LabelFile(path, key)(labels, num_classes)
    return [str(each.message) for each in caught]


MANY, TWO = torch.arange(2000) % 10, (torch.arange(400) % 10 == 0).long()
#: Numbers of eleven classes whose folders are sorted as text: 0, 1, 10, 2, ...
AS_TEXT = torch.tensor(sorted(range(11), key=str))


@pytest.mark.parametrize(
    ("labels", "given", "message"),
    [
        (MANY, shuffled(MANY), r"(89|90)\.\d% of the labels in .* \(in random order 90\.0% would\), and of \d+ of 10"),
        (MANY, MANY.roll(1), r"100\.0% .* of 10 of 10 classes"),
        (TWO, shuffled(TWO), r"1\d\.\d% .* \(in random order 18\.0% would\)"),
        (TWO, 1 - TWO, r"100\.0% .* of 2 of 2 classes"),
        (torch.arange(330) % 11, AS_TEXT[torch.arange(330) % 11], r"81\.8% .* of 9 of 11 classes"),
    ],
)
def test_an_order_or_classes_that_do_not_fit_are_told(tmp_path, labels, given, message):
    (found,) = warnings_of(tmp_path / "a.npz", labels, given, int(labels.max()) + 1)
    assert re.search(message, found)


def test_classes_that_do_not_occur_are_told(tmp_path):
    found = warnings_of(tmp_path / "a.npz", MANY, MANY // 3, 10, "coarse")
    assert re.search(r"Only 4 of the data set's 10 classes occur in .*a\.npz \(coarse\): check", found[-1])
    labels = torch.arange(100) % 2  # in a data set of 20 classes, of which the samples have two
    assert len(warnings_of(tmp_path / "b.npz", labels, labels, 20)) == 1


@pytest.mark.parametrize(
    ("labels", "corruption"),
    [
        (MANY, UniformNoise(0.8)),
        (MANY, PairNoise(0.45)),
        (MANY, UniformNoise(0.0)),
        (TWO, UniformNoise(0.4)),
        (torch.arange(100), UniformNoise(0.6)),
        (torch.zeros(30, dtype=torch.int64), UniformNoise(0.0)),
        (TRUE[:3], UniformNoise(0.0)),
    ],
)
def test_noise_is_no_file_that_does_not_fit(tmp_path, labels, corruption):
    num_classes = int(labels.max()) + 1
    assert warnings_of(tmp_path / "a.npz", labels, corruption(labels, num_classes).labels, num_classes) == []


def test_keys(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, fine=GIVEN.numpy(), coarse=TRUE.numpy())
    for key in (None, "other"):
        with pytest.raises(ValueError, match=rf"holds no array {key!r}: give as key one of \['coarse', 'fine'\]"):
            LabelFile(path, key)(TRUE, 3)
    assert LabelFile(path, "fine")(TRUE, 3).labels.tolist() == GIVEN.tolist()
    with pytest.raises(ValueError, match="holds a single array, so it has no key 'fine'"):
        LabelFile(write(tmp_path / "b.npy"), "fine")(TRUE, 3)


def test_rows_choose_from_the_whole_file_also_after_a_discard(tmp_path):
    corruption = LabelFile(write(tmp_path / "a.npy"))
    rows = torch.tensor([20, 3, 11])
    assert corruption(TRUE[rows], 3, rows, 30).labels.tolist() == GIVEN[rows].tolist()
    both = Compose([DiscardClasses([0], 0.5), corruption])
    assert torch.equal((record := both(TRUE, 3)).labels, GIVEN[record.kept])
    assert torch.equal((record := both(TRUE[10:25], 3, torch.arange(10, 25), 30)).labels, GIVEN[10:25][record.kept])


def test_a_data_module_gives_its_rows(tmp_path):
    x = np.arange(30.0)[:, None]
    np.savez(tmp_path / "data.npz", train_x=x, train_y=TRUE.numpy(), test_x=x[:3], test_y=TRUE[:3].numpy())
    data = ArraysDataModule(tmp_path / "data.npz", val_size=10, corruption=LabelFile(write(tmp_path / "a.npy")))
    data.setup()
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))[10:]
    assert torch.equal(data.train_dataloader().dataset.y, GIVEN[order])
    assert torch.equal(data.corruption_record.true_labels, TRUE[order])


def test_nothing_in_an_array_is_executed(tmp_path):  # tests/faults has the other files
    torch.save({"labels": np.array([Evil(tmp_path / "marker")], dtype=object)}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"a\.pt cannot be read: it is damaged, .* Python objects"):
        LabelFile(tmp_path / "a.pt")(TRUE, 3)
    assert not (tmp_path / "marker").exists()


class Forged:
    """An array of objects over bytes that the file chooses: addresses of objects that do not exist."""

    def __reduce__(self):
        return np.ndarray, ((1,), "O", b"A" * 8)


class Shaped:
    """An array whose constructor would follow the addresses of a forged one."""

    def __reduce__(self):
        return np.ndarray, (Forged(), "i8")


@pytest.mark.parametrize("forged", [Forged, Shaped])
def test_a_file_cannot_forge_addresses(tmp_path, forged):
    torch.save({"labels": forged()}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"a\.pt cannot be read: it is damaged"):
        LabelFile(tmp_path / "a.pt")(TRUE, 3)


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (None, "none.npy", "There is no label file at .*none.npy"),
        (b"rubbish", "a.pt", "a.pt cannot be read"),
        (b"0\n1\ncat\n", "a.txt", r"a.txt cannot be read.*'cat' .* row 2"),
        (b"0 1 2\n", "a.txt", r"a.txt has shape \[1, 3\]"),
        (b"\xff\xfe\n", "a.csv", "a.csv cannot be read"),
        (b"0", "a.labels", "a.labels is of an unknown kind: labels are read from .npy, .npz, .pt, .txt, .csv"),
    ],
)
def test_unreadable_files(tmp_path, content, name, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    error = FileNotFoundError if content is None else ValueError
    with pytest.raises(error, match=message):
        LabelFile(tmp_path / name)(TRUE, 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (GIVEN[:29].numpy(), "has 29 labels, but the training part of the data set has 30 samples"),
        # Rows that are not used are checked too.
        (LAST_IS_7, "Row 29 .* has the label 7, but the data set has the 3 classes 0 to 2"),
        (-GIVEN.numpy(), "has the negative label -2"),
        ([0, 1, 2], "holds a list, but labels must be an array or a contiguous tensor"),
        (torch.zeros(30).bfloat16(), "holds a Tensor, but labels must be an array or a contiguous tensor of integers"),
        (torch.tensor(3).expand(10**9), "holds a Tensor, but labels must be an array or a contiguous tensor"),
    ],
)
def test_labels_that_do_not_fit(tmp_path, content, message):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=message):
        LabelFile(tmp_path / "a.pt")(TRUE[:2], 3, torch.arange(2), 30)
