import pytest
import torch

from law_lightning.data import CorruptionRecord, UniformNoise, uniform_noise


def balanced_labels(num_samples, num_classes):
    return torch.arange(num_samples) % num_classes


def test_record_tells_what_was_done():
    labels = balanced_labels(1000, 4)
    record = UniformNoise(0.5, seed=9)(labels, 4)
    noisy, changed = uniform_noise(labels, 0.5, 4, seed=9)
    assert torch.equal(record.labels, noisy)
    assert torch.equal(record.indices, changed)
    assert torch.equal(record.true_labels, labels)
    assert record.name == "uniform_noise"
    assert record.settings == {"rate": 0.5, "seed": 9, "exclude_true": False}
    assert torch.equal(record.kept, torch.arange(1000))
    # The true class comes back for about a quarter of the selected samples: 125 of 500.
    assert set(record.indices.tolist()) < set(record.selected.tolist())
    assert abs(len(record.selected) - len(record.indices) - 125) < 45


def test_record_survives_saving(tmp_path):
    record = UniformNoise(0.3, seed=2)(balanced_labels(50, 10), 10)
    record.save(tmp_path / "noise.pt")
    loaded = CorruptionRecord.load(tmp_path / "noise.pt")
    for name in ("labels", "true_labels", "indices", "selected", "kept"):
        assert torch.equal(getattr(loaded, name), getattr(record, name))
    assert (loaded.name, loaded.settings) == (record.name, record.settings)


@pytest.mark.parametrize("content", [b"", b"not a torch file at all", None])
def test_damaged_record_file_is_named(tmp_path, content):
    path = tmp_path / "noise.pt"
    UniformNoise(0.3)(balanced_labels(50, 10), 10).save(path)
    path.write_bytes(path.read_bytes()[:400] if content is None else content)
    with pytest.raises(ValueError, match=r"noise\.pt cannot be read as a corruption record"):
        CorruptionRecord.load(path)


class Payload:
    def __reduce__(self):
        return (open, ("executed", "w"))


def test_nothing_in_a_record_file_is_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    UniformNoise(0.3)(balanced_labels(5, 2), 2).save("noise.pt")
    torch.save(torch.load("noise.pt", weights_only=True) | {"settings": {"rate": Payload()}}, "noise.pt")
    with pytest.raises(ValueError, match=r"noise\.pt cannot be read as a corruption record"):
        CorruptionRecord.load("noise.pt")
    assert not (tmp_path / "executed").exists()


def test_a_record_of_an_earlier_version_is_named(tmp_path):
    path = tmp_path / "noise.pt"
    torch.save({"format": "law_lightning.corruption_record.v1", "labels": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match=r"noise\.pt is a corruption record of an earlier version"):
        CorruptionRecord.load(path)


class NotPlain:
    pass


def test_foreign_record_files_are_named(tmp_path):
    path = tmp_path / "other.pt"
    for content in ({"weight": torch.zeros(2)}, torch.zeros(3)):
        torch.save(content, path)
        with pytest.raises(ValueError, match=r"other\.pt is readable but holds no corruption record"):
            CorruptionRecord.load(path)
    torch.save(NotPlain(), path)
    with pytest.raises(ValueError, match=r"other\.pt cannot be read"):
        CorruptionRecord.load(path)


def test_record_file_with_lost_fields_is_named(tmp_path):
    path = tmp_path / "noise.pt"
    UniformNoise(0.3)(balanced_labels(5, 2), 2).save(path)
    content = torch.load(path, weights_only=True)
    del content["selected"]
    torch.save(content | {"settings": "0.3"}, path)
    with pytest.raises(ValueError, match=r"\['selected', 'settings'\] are missing or of the wrong type"):
        CorruptionRecord.load(path)


def test_missing_record_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        CorruptionRecord.load(tmp_path / "none.pt")


@pytest.mark.parametrize(
    "change",
    [
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
def test_record_file_whose_tensors_do_not_fit_is_named(tmp_path, change):
    path = tmp_path / "noise.pt"
    UniformNoise(0.3)(balanced_labels(5, 2), 2).save(path)
    torch.save(torch.load(path, weights_only=True) | change, path)
    with pytest.raises(ValueError, match="its tensors do not fit together"):
        CorruptionRecord.load(path)
