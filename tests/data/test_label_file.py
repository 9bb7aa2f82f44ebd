import zipfile

import numpy as np
import pytest
import torch

from hostile import Evil
from law_lightning.data import ArraysDataModule, Compose, DiscardClasses, LabelFile

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
