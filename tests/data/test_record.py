"""The record of a corruption and its file."""

import numpy as np
import pytest
import torch

from law_lightning.data import Compose, CorruptionRecord, DiscardClasses, LongTail, UniformNoise

LABELS = torch.arange(50) % 5


def test_record_tells_what_was_done():
    labels = torch.arange(1000) % 4
    record = UniformNoise(0.5, seed=9)(labels, 4)
    assert torch.equal(record.true_labels, labels)
    assert record.name == "uniform_noise"
    assert record.settings == {"rate": 0.5, "seed": 9, "exclude_true": False}
    # The true class comes back for about a quarter of the selected samples: 125 of 500.
    assert set(record.indices.tolist()) < set(record.selected.tolist())
    assert abs(len(record.selected) - len(record.indices) - 125) < 45


@pytest.mark.parametrize(
    ("corruption", "name", "expected"),
    [
        (
            UniformNoise(np.float64(0.5), np.int64(2)),
            "uniform_noise",
            {"rate": 0.5, "seed": 2, "exclude_true": False},
        ),
        (DiscardClasses(np.array([1]), np.float32(0.5)), "discard", {"classes": (1,), "share": 0.5, "seed": 0}),
        (
            Compose([LongTail(4), UniformNoise(0.5, seed=3)]),
            "long_tail+uniform_noise",
            {
                "1 long_tail": {"imbalance": 4, "seed": 0},
                "2 uniform_noise": {"rate": 0.5, "seed": 3, "exclude_true": False},
            },
        ),
    ],
)
def test_a_saved_record_is_the_same_in_plain_python(tmp_path, corruption, name, expected):
    record = corruption(LABELS, 5)
    record.save(tmp_path / "noise.pt")
    loaded = CorruptionRecord.load(tmp_path / "noise.pt")
    for each in ("labels", "true_labels", "indices", "selected", "kept"):
        assert torch.equal(getattr(loaded, each), getattr(record, each))
    assert (loaded.name, loaded.settings) == (record.name, record.settings) == (name, expected)


class Payload:
    def __reduce__(self):
        return (open, ("executed", "w"))


def test_nothing_in_a_record_file_is_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    UniformNoise(0.3)(LABELS, 5).save("noise.pt")
    torch.save(torch.load("noise.pt", weights_only=True) | {"settings": {"rate": Payload()}}, "noise.pt")
    with pytest.raises(ValueError, match=r"noise\.pt cannot be read as a corruption record"):
        CorruptionRecord.load("noise.pt")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("content", [b"", b"not a torch file at all", None])
def test_damaged_record_file_is_named(tmp_path, content):
    path = tmp_path / "noise.pt"
    UniformNoise(0.3)(LABELS, 5).save(path)
    path.write_bytes(path.read_bytes()[:400] if content is None else content)
    with pytest.raises(ValueError, match=r"noise\.pt cannot be read as a corruption record"):
        CorruptionRecord.load(path)


@pytest.mark.parametrize(
    "content", [{"weight": torch.zeros(2)}, torch.zeros(3), {"format": "law_lightning.corruption_record.v1"}]
)
def test_foreign_record_files_are_named(tmp_path, content):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"other\.pt is readable but holds no corruption record of this version"):
        CorruptionRecord.load(tmp_path / "other.pt")


def test_missing_record_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        CorruptionRecord.load(tmp_path / "none.pt")


@pytest.mark.parametrize(
    "change",
    [
        {"settings": "0.3"},
        {"name": None},
        {"selected": None},
        {"more": 1},
        {"kept": torch.arange(4)},
        {"kept": torch.arange(5).flip(0)},
        {"kept": torch.arange(5) - 1},
        {"selected": torch.tensor([5])},
        {"selected": torch.tensor([-1])},
        {"selected": torch.tensor([3, 1])},
        {"labels": torch.zeros(5)},
        {"labels": torch.full((5,), -1)},
        {"true_labels": torch.zeros(1, 5, dtype=torch.int64)},
    ],
)
def test_record_file_whose_fields_do_not_fit_is_named(tmp_path, change):
    path = tmp_path / "noise.pt"
    UniformNoise(0.3)(LABELS[:5], 5).save(path)
    torch.save(torch.load(path, weights_only=True) | change, path)
    with pytest.raises(ValueError, match=r"noise\.pt is a damaged corruption record \(.*\)\. Write it again"):
        CorruptionRecord.load(path)
