import io
import os
import pickle
import random
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from law_lightning.utilities.files import is_finite, load_state, save_state

STATE = {"numbers": torch.arange(6.0).view(2, 3), "names": ["a", "b"], "nested": {"x": None, 3: (1.5, True)}}
same_folder = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol")


def test_a_state_comes_back(tmp_path):
    path = tmp_path / "new" / "folder" / "state.pt"
    save_state(path, "thing", STATE)
    loaded = load_state(str(path), "thing")
    assert torch.equal(loaded.pop("numbers"), STATE["numbers"])
    assert loaded == {name: value for name, value in STATE.items() if name != "numbers"}
    assert [p.name for p in path.parent.iterdir()] == ["state.pt"]


def test_torch_alone_can_read_it(tmp_path):
    save_state(tmp_path / "state.pt", "thing", STATE)
    content = torch.load(tmp_path / "state.pt", weights_only=True)
    assert (content["kind"], content["format"]) == ("thing", 1)


def test_an_interruption_leaves_the_previous_file(tmp_path, monkeypatch):
    path = tmp_path / "state.pt"
    save_state(path, "thing", {"a": 1})

    def half(file):
        Path(path.with_name("state.pt.partial")).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", half)
    with pytest.raises(KeyboardInterrupt):
        save_state(path, "thing", {"a": 2})
    monkeypatch.undo()
    assert load_state(path, "thing") == {"a": 1}
    save_state(path, "thing", {"a": 3})  # what the interruption left does not matter
    assert load_state(path, "thing") == {"a": 3}


@pytest.mark.parametrize("where", ["missing.pt", "", "no/such/folder.pt"])
def test_a_missing_file_is_named(tmp_path, where):
    with pytest.raises(FileNotFoundError, match=f"No thing file at .*{where}"):
        load_state(tmp_path / where, "thing")


def test_nothing_in_a_file_is_executed(tmp_path):
    path, touched = tmp_path / "evil.pt", tmp_path / "touched"

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(touched),)

    torch.save({"kind": "thing", "format": 1, "state": {"a": Evil()}}, path)
    with pytest.raises(ValueError, match=r"evil\.pt is damaged or was not written by law-lightning"):
        load_state(path, "thing")
    assert not touched.exists()


@same_folder
@given(st.binary(max_size=60))
@example(b"")
@example(b"a,b\n1,2\n")
@example(b"\x80\x02")
@example(b"PK\x03\x04")
@example(pickle.dumps({"kind": "thing"}))
def test_foreign_bytes_are_named(tmp_path, content):
    path = tmp_path / "foreign.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"foreign\.pt is (damaged|not a thing file)"):
        load_state(path, "thing")


def test_a_foreign_zip_is_named(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("readme.txt", "hello")
    (tmp_path / "foreign.pt").write_bytes(buffer.getvalue())
    with pytest.raises(ValueError, match="damaged"):
        load_state(tmp_path / "foreign.pt", "thing")


def test_a_truncated_file_is_named(tmp_path):
    path = tmp_path / "state.pt"
    save_state(path, "thing", STATE)
    whole = path.read_bytes()
    for length in range(0, len(whole), max(1, len(whole) // 60)):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"damaged.*path of a thing file"):
            load_state(path, "thing")


def test_a_changed_byte_is_noticed_or_harmless(tmp_path):
    path = tmp_path / "state.pt"
    save_state(path, "thing", STATE)
    whole = path.read_bytes()
    draw, refused = random.Random(0), 0
    for _ in range(300):
        changed = bytearray(whole)
        changed[draw.randrange(len(whole))] = draw.randrange(256)
        path.write_bytes(changed)
        try:
            load_state(path, "thing")
        except ValueError:
            refused += 1
    assert refused > 50


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], r"not a thing file of law-lightning \(its kind: 'none'\)"),
        ({"state_dict": {}, "epoch": 3}, r"not a thing file of law-lightning \(its kind: 'none'\)"),
        ({"kind": "replay", "format": 1, "state": {}}, r"not a thing file .*'replay'"),
        ({"kind": "thing", "format": 1, "state": [1]}, r"not a thing file"),
        ({"kind": "thing", "format": 1}, r"not a thing file"),
        ({"kind": "thing", "format": 2, "state": {}}, r"has format 2; this version of law-lightning reads format 1"),
        ({"kind": "thing", "state": {}}, r"has format None"),
    ],
)
def test_other_contents_are_named(tmp_path, content, message):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=rf"other\.pt .*{message}|other\.pt is {message}"):
        load_state(tmp_path / "other.pt", "thing")


def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    save_state(tmp_path / "state.pt", "thing", STATE)

    def refuse(*args, **kwargs):
        raise PermissionError("not yours")

    monkeypatch.setattr(torch, "load", refuse)
    with pytest.raises(PermissionError, match="not yours"):
        load_state(tmp_path / "state.pt", "thing")


def test_one_number_that_stands_for_many_is_named(tmp_path):
    torch.save({"kind": "thing", "format": 1, "state": {"a": torch.zeros(1).expand(2**40)}}, tmp_path / "state.pt")
    with pytest.raises(ValueError, match="its tensors are larger than the file"):
        load_state(tmp_path / "state.pt", "thing")


def test_a_tensor_without_numbers_is_named(tmp_path):
    torch.save({"kind": "thing", "format": 1, "state": {"a": torch.empty(2**40, device="meta")}}, tmp_path / "state.pt")
    with pytest.raises(ValueError, match="holds more than tensors and plain Python"):
        load_state(tmp_path / "state.pt", "thing")


def test_what_holds_itself_is_looked_at_once(tmp_path):
    lists = [[1.0], [2.0]]
    for _ in range(60):  # of each pair both are in both of the next: 2^60 ways lead to the first
        lists = [lists, lists]
    lists[0].append(lists)
    torch.save({"kind": "thing", "format": 1, "state": {"a": lists}}, tmp_path / "state.pt")
    state = load_state(tmp_path / "state.pt", "thing")
    assert is_finite(state)
