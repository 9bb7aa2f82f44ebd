import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from law_lightning.utilities.files import is_finite, load_state, save_state, save_tensors
from naive_ddpg import same

STATE = {
    "numbers": torch.arange(6.0).view(2, 3), "names": ["a", "b"], "count": torch.tensor(3), "empty": {},
    "nested": {"x": None, "y": [1.5, True], "deep": {"t": torch.zeros(2, dtype=torch.uint8)}},
}  # fmt: skip
same_folder = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol")
both = pytest.mark.parametrize("save", [save_state, save_tensors])


@both
def test_a_state_comes_back(tmp_path, save):
    path = tmp_path / "new" / "folder" / "state"
    save(path, "thing", STATE)
    assert same(load_state(str(path), "thing"), STATE)
    assert [p.name for p in path.parent.iterdir()] == ["state"]


def test_torch_alone_can_read_it_and_the_same_state_is_the_same_file(tmp_path):
    save_state(tmp_path / "state.pt", "thing", STATE)
    content = torch.load(tmp_path / "state.pt", weights_only=True)
    assert (content["kind"], content["format"]) == ("thing", 1)
    for name in "ab":
        save_tensors(tmp_path / name, "thing", STATE)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@both
def test_an_interruption_leaves_the_previous_file(tmp_path, monkeypatch, save):
    path = tmp_path / "state"
    save(path, "thing", {"a": 1})

    def half(file):
        Path(path.with_name("state.partial")).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", half)
    with pytest.raises(KeyboardInterrupt):
        save(path, "thing", {"a": 2})
    monkeypatch.undo()
    assert load_state(path, "thing") == {"a": 1}
    save(path, "thing", {"a": 3})  # what the interruption left does not matter
    assert load_state(path, "thing") == {"a": 3}


def test_a_missing_file_is_named(tmp_path):
    for where in ("missing.pt", ""):
        with pytest.raises(FileNotFoundError, match=f"No thing file at .*{where}"):
            load_state(tmp_path / where, "thing")


@same_folder
@given(st.binary(max_size=60))
@example(b"")
@example(b"a,b\n1,2\n")
@example(b"\x80\x02")
@example(b"PK\x03\x04")
@example(pickle.dumps({"kind": "thing"}))
@example(b"\x02\0\0\0\0\0\0\0{}")
@example(safetensors.torch.save({"a": torch.zeros(1)}))
@example(safetensors.torch.save({"a": torch.zeros(1)}, {"law_lightning": "[1]"}))
@example(safetensors.torch.save({"a": torch.zeros(1)}, {"law_lightning": "{"}))
def test_foreign_bytes_are_named(tmp_path, content):
    path = tmp_path / "foreign.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"foreign\.pt is (damaged|not a thing file)"):
        load_state(path, "thing")


@both
def test_a_changed_number_is_noticed(tmp_path, save):
    save(path := tmp_path / "state", "thing", STATE)
    path.write_bytes(path.read_bytes().replace(np.float32(5.0).tobytes(), np.float32(5.5).tobytes()))
    with pytest.raises(ValueError, match=r"state is damaged .*was changed since it was written"):
        load_state(path, "thing")


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


@pytest.mark.parametrize(
    ("state", "finite"),
    [
        ({"a": [1, 2.0, "nan", None], "b": {"c": torch.zeros(2), 3: (1.5, True)}}, True),
        ({"a": [1, float("nan")]}, False),
        ({"b": {"c": (torch.tensor([0.0, float("inf")]),)}}, False),
    ],
)
def test_whether_all_numbers_are_finite(state, finite):
    assert is_finite(state) == finite
