import numpy as np
import pytest
import torch

from law_lightning.data import ArraysDataModule, LabelFile

TRUE = torch.arange(30) % 3
GIVEN = (TRUE + (torch.arange(30) % 5 == 0)) % 3


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


def test_rows_choose_from_the_whole_file(tmp_path):
    rows = torch.tensor([20, 3, 11])
    record = LabelFile(write(tmp_path / "a.npy"))(TRUE[rows], 3, rows, 30)
    assert record.labels.tolist() == GIVEN[rows].tolist()


def test_a_data_module_gives_its_rows(tmp_path):
    x = np.arange(30.0)[:, None]
    np.savez(tmp_path / "data.npz", train_x=x, train_y=TRUE.numpy(), test_x=x[:3], test_y=TRUE[:3].numpy())
    data = ArraysDataModule(tmp_path / "data.npz", val_size=10, corruption=LabelFile(write(tmp_path / "a.npy")))
    data.setup()
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))[10:]
    assert torch.equal(data.train_dataloader().dataset.y, GIVEN[order])
    assert torch.equal(data.corruption_record.true_labels, TRUE[order])


class Payload:
    def __reduce__(self):
        return (open, ("executed", "w"))


def test_nothing_in_a_file_is_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"labels": Payload()}, "evil.pt")
    np.save("evil.npy", np.array([Payload()], dtype=object), allow_pickle=True)
    torch.save({"labels": np.array([Payload()], dtype=object)}, "array.pt")
    for name in ("evil.pt", "evil.npy", "array.pt"):
        with pytest.raises(ValueError, match=f"{name} cannot be read as labels"):
            LabelFile(name)(TRUE, 3)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (None, "none.npy", "There is no label file at .*none.npy"),
        (b"rubbish", "a.npy", "a.npy cannot be read as labels"),
        (b"rubbish", "a.pt", "a.pt cannot be read as labels"),
        (b"0\n1\ncat\n", "a.txt", "a.txt cannot be read as labels"),
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
    ("array", "message"),
    [
        (GIVEN[:29].numpy(), "has 29 labels, but the training part of the data set has 30 samples"),
        (np.where(GIVEN == 2, 7, GIVEN), "has the label 7, but the data set has the 3 classes 0 to 2"),
        (-GIVEN.numpy(), "has the label -"),
        (GIVEN.numpy().astype(float), "dtype float64, but they must be integers"),
        (np.zeros((30, 2), dtype=int), r"shape \[30, 2\]"),
    ],
)
def test_labels_that_do_not_fit(tmp_path, array, message):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(ValueError, match=message):
        LabelFile(tmp_path / "a.npy")(TRUE, 3, torch.arange(30), 30)


def test_keys(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, fine=GIVEN.numpy(), coarse=TRUE.numpy())
    with pytest.raises(ValueError, match=r"holds several arrays: give key, one of \['coarse', 'fine'\]"):
        LabelFile(path)(TRUE, 3)
    with pytest.raises(ValueError, match=r"holds no array 'other': give key"):
        LabelFile(path, "other")(TRUE, 3)
    assert LabelFile(path, "fine")(TRUE, 3).labels.tolist() == GIVEN.tolist()
    with pytest.raises(ValueError, match="holds a single array, so it has no key 'fine'"):
        LabelFile(write(tmp_path / "b.npy"), "fine")(TRUE, 3)
