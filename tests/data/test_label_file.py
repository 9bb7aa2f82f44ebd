import zipfile

import numpy as np
import pytest
import torch

from law_lightning.data import ArraysDataModule, Compose, DiscardClasses, LabelFile

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


@pytest.mark.parametrize("dtype", ["<i8", ">i4", "u1", "<u2"])
def test_every_kind_of_integer_and_a_column(tmp_path, dtype):
    array = GIVEN.numpy().astype(dtype)
    torch.save({"a": np.asfortranarray(array[:, None])}, tmp_path / "a.pt")
    with (tmp_path / "A.NPY").open("wb") as file:
        np.save(file, array[:, None])
    for name in ("a.pt", "A.NPY"):
        assert LabelFile(tmp_path / name)(TRUE, 3).labels.tolist() == GIVEN.tolist()


def change_pickle(source, target, change):
    with zipfile.ZipFile(source) as plain, zipfile.ZipFile(target, "w") as changed:
        for name in plain.namelist():
            content = plain.read(name)
            changed.writestr(name, change(content) if name.endswith("data.pkl") else content)


def test_arrays_that_numpy_1_pickled_and_torch_s_former_format(tmp_path):
    torch.save({"a": GIVEN.numpy()}, tmp_path / "now.pt")
    before, after = b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"
    if np.__version__ < "2":
        before, after = after, before
    change_pickle(tmp_path / "now.pt", tmp_path / "then.pt", lambda content: content.replace(before, after))
    assert (tmp_path / "now.pt").read_bytes() != (tmp_path / "then.pt").read_bytes()
    torch.save({"a": GIVEN.numpy()}, tmp_path / "former.pt", _use_new_zipfile_serialization=False)
    for name in ("now.pt", "then.pt", "former.pt"):
        assert LabelFile(tmp_path / name)(TRUE, 3).labels.tolist() == GIVEN.tolist()


def test_keys(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, fine=GIVEN.numpy(), coarse=TRUE.numpy())
    with pytest.raises(ValueError, match=r"holds several arrays, or none: give key, one of \['coarse', 'fine'\]"):
        LabelFile(path)(TRUE, 3)
    with pytest.raises(ValueError, match=r"holds no array 'other': give key"):
        LabelFile(path, "other")(TRUE, 3)
    assert LabelFile(path, "fine")(TRUE, 3).labels.tolist() == GIVEN.tolist()
    with pytest.raises(ValueError, match="holds a single array, so it has no key 'fine'"):
        LabelFile(write(tmp_path / "b.npy"), "fine")(TRUE, 3)


def test_rows_choose_from_the_whole_file_also_after_a_discard(tmp_path):
    corruption = LabelFile(write(tmp_path / "a.npy"))
    rows = torch.tensor([20, 3, 11])
    assert corruption(TRUE[rows], 3, rows, 30).labels.tolist() == GIVEN[rows].tolist()
    both = Compose([DiscardClasses([0], 0.5), corruption])
    for rows, given in ((None, range(30)), (torch.arange(10, 25), range(10, 25))):
        labels = TRUE if rows is None else TRUE[rows]
        record = both(labels, 3, rows, None if rows is None else 30)
        assert record.labels.tolist() == [int(GIVEN[given[i]]) for i in record.kept.tolist()]


def test_a_data_module_gives_its_rows(tmp_path):
    x = np.arange(30.0)[:, None]
    np.savez(tmp_path / "data.npz", train_x=x, train_y=TRUE.numpy(), test_x=x[:3], test_y=TRUE[:3].numpy())
    data = ArraysDataModule(tmp_path / "data.npz", val_size=10, corruption=LabelFile(write(tmp_path / "a.npy")))
    data.setup()
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))[10:]
    assert torch.equal(data.train_dataloader().dataset.y, GIVEN[order])
    assert torch.equal(data.corruption_record.true_labels, TRUE[order])


# -- faults ----------------------------------------------------------------------------------------------------


class Payload:
    def __reduce__(self):
        return (open, ("executed", "w"))


def test_nothing_in_a_file_is_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"labels": Payload()}, "evil.pt")
    np.save("evil.npy", np.array([Payload()], dtype=object), allow_pickle=True)
    torch.save({"labels": np.array([Payload()], dtype=object)}, "array.pt")
    for name in ("evil.pt", "evil.npy", "array.pt"):
        with pytest.raises(ValueError, match=f"{name} cannot be read: it is damaged, .* Python objects"):
            LabelFile(name)(TRUE, 3)
    assert not (tmp_path / "executed").exists()


def test_a_forged_array_of_objects_is_not_built(tmp_path):
    # numpy.ndarray((1,), dtype("O"), b"AAAAAAAA"): whoever reads its one object follows a pointer of the file's choice.
    forged = (
        b"\x80\x02cnumpy\nndarray\n(K\x01\x85cnumpy\ndtype\nX\x01\x00\x00\x00O\x85R"
        b"c_codecs\nencode\nX\x08\x00\x00\x00AAAAAAAAX\x06\x00\x00\x00latin1\x86RtR."
    )
    change_pickle(write(tmp_path / "a.pt"), tmp_path / "forged.pt", lambda _: forged)
    with pytest.raises(ValueError, match=r"forged\.pt cannot be read"):
        LabelFile(tmp_path / "forged.pt")(TRUE, 3)


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (None, "none.npy", "There is no label file at .*none.npy"),
        (b"rubbish", "a.npy", "a.npy cannot be read"),
        (b"rubbish", "a.pt", "a.pt cannot be read"),
        (b"0\n1\ncat\n", "a.txt", "Line 3 of .*a.txt is 'cat', but each must hold one integer"),
        (b"0 1 2\n", "a.txt", "Line 1 of .*a.txt is '0 1 2'"),
        (b"0\n\n1\n", "a.txt", "Line 2 of .*a.txt is ''"),
        (b"1_0\n", "a.csv", "Line 1 of .*a.csv is '1_0'"),
        (b"\xff\xfe\n", "a.csv", "Line 1 of .*a.csv"),
        (b"", "a.csv", r"a.csv has shape \[0\]"),
        (b"0", "a.labels", "a.labels is of an unknown kind: labels are read from .npy, .npz, .pt, .txt, .csv"),
    ],
)
def test_unreadable_files(tmp_path, content, name, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    error = FileNotFoundError if content is None else ValueError
    with pytest.raises(error, match=message):
        LabelFile(tmp_path / name)(TRUE, 3)


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.pt", "human.pt"])
@pytest.mark.parametrize("share", [0.1, 0.95])
def test_a_file_that_was_cut_short(tmp_path, name, share):
    path = write(tmp_path / name)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ValueError, match=f"{name} cannot be read"):
        LabelFile(path, "worse_label" if name == "human.pt" else None)(TRUE, 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (GIVEN[:29].numpy(), "has 29 labels, but the training part of the data set has 30 samples"),
        # Rows that are not used are checked too.
        (
            np.where(np.arange(30) == 29, 7, GIVEN),
            "Row 29 .* has the label 7, but the data set has the 3 classes 0 to 2",
        ),
        (-GIVEN.numpy(), "has the negative label -2"),
        (np.zeros((30, 2), dtype=int), r"shape \[30, 2\]"),
        ({"a": GIVEN.double().numpy()}, "dtype float64, but labels must be integers"),
        ([0, 1, 2], "holds a list, but labels must be an array or a tensor"),
        ({}, r"holds several arrays, or none: give key, one of \[\]"),
        (GIVEN.bfloat16(), "dtype float64, but labels must be integers"),
        (GIVEN.bool(), "dtype bool"),
        (torch.tensor(3), r"shape \[\]"),
        (torch.tensor(3).expand(10**9), "cannot be read"),
    ],
)
def test_labels_that_do_not_fit(tmp_path, content, message):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=message):
        LabelFile(tmp_path / "a.pt")(TRUE[:2], 3, torch.arange(2), 30)
