import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from law_lightning.data import CorruptionRecord, UniformNoise, uniform_noise


def balanced_labels(num_samples, num_classes):
    return torch.arange(num_samples) % num_classes


@pytest.mark.parametrize(("rate", "num_classes"), [(0.4, 10), (0.2, 10), (0.8, 3), (1.0, 2)])
def test_real_rate_is_the_papers(rate, num_classes):
    labels = balanced_labels(40_000, num_classes)
    _, changed = uniform_noise(labels, rate, num_classes, seed=1)
    expected = rate * (1 - 1 / num_classes)
    deviation = math.sqrt(expected * (1 - expected) / len(labels))
    assert abs(len(changed) / len(labels) - expected) < 4 * deviation


def test_replacements_are_uniform_over_all_classes():
    labels = torch.zeros(50_000, dtype=torch.int64)
    noisy, _ = uniform_noise(labels, 1.0, 5, seed=3)
    shares = torch.bincount(noisy, minlength=5) / len(labels)
    assert torch.allclose(shares, torch.full((5,), 0.2), atol=0.01)


def test_same_seed_same_noise_other_seed_other_noise():
    labels = balanced_labels(500, 10)
    first, second = (uniform_noise(labels, 0.4, 10, seed=7) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[0], uniform_noise(labels, 0.4, 10, seed=8)[0])


def test_global_random_state_is_neither_read_nor_advanced():
    labels = balanced_labels(100, 10)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    noisy, _ = uniform_noise(labels, 0.4, 10, seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(uniform_noise(labels, 0.4, 10, seed=0)[0], noisy)


@settings(max_examples=60, deadline=None)
@given(
    num_classes=st.integers(1, 12),
    num_samples=st.integers(0, 60),
    rates=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    seed=st.integers(0, 2**40),
)
def test_properties(num_classes, num_samples, rates, seed):
    labels = balanced_labels(num_samples, num_classes)
    original = labels.clone()
    rate, higher = sorted(rates)
    noisy, changed = uniform_noise(labels, rate, num_classes, seed)
    assert torch.equal(labels, original)
    assert noisy.dtype == torch.int64
    assert noisy.shape == labels.shape
    assert ((noisy >= 0) & (noisy < num_classes)).all()
    assert changed.tolist() == [i for i in range(num_samples) if noisy[i] != labels[i]]
    # What is wrong at a low rate is wrong in the same way at a higher one.
    assert torch.equal(uniform_noise(labels, higher, num_classes, seed)[0][changed], noisy[changed])


def test_rate_zero_changes_nothing_and_rate_one_selects_all():
    labels = balanced_labels(300, 10)
    assert torch.equal(uniform_noise(labels, 0.0, 10, seed=0)[0], labels)
    assert len(UniformNoise(1.0)(labels, 10).selected) == 300


@pytest.mark.parametrize("rate", [-0.1, 1.01, math.nan, math.inf])
def test_rate_outside_the_range_is_named(rate):
    with pytest.raises(ValueError, match=rf"noise rate is {rate}, but it must lie in \[0, 1\]"):
        uniform_noise(torch.zeros(3, dtype=torch.int64), rate, 10, seed=0)
    with pytest.raises(ValueError, match=rf"noise rate is {rate}, but it must lie in \[0, 1\]"):
        UniformNoise(rate)


@pytest.mark.parametrize("label", [-1, 10])
def test_label_outside_the_range_is_named(label):
    with pytest.raises(ValueError, match=rf"label {label}, but with num_classes=10 .* \[0, 9\]"):
        uniform_noise(torch.tensor([0, label]), 0.4, 10, seed=0)


@pytest.mark.parametrize("labels", [torch.zeros(3), torch.zeros(3, 1, dtype=torch.int64)])
def test_labels_of_another_kind_are_refused(labels):
    with pytest.raises(ValueError, match="must be an int64 tensor of shape"):
        uniform_noise(labels, 0.4, 10, seed=0)


def test_no_classes_are_refused():
    with pytest.raises(ValueError, match="num_classes is 0"):
        uniform_noise(torch.zeros(0, dtype=torch.int64), 0.4, 0, seed=0)


def test_record_tells_what_was_done():
    labels = balanced_labels(1000, 4)
    record = UniformNoise(0.5, seed=9)(labels, 4)
    noisy, changed = uniform_noise(labels, 0.5, 4, seed=9)
    assert torch.equal(record.labels, noisy)
    assert torch.equal(record.indices, changed)
    assert torch.equal(record.true_labels, labels)
    assert (record.name, record.rate, record.seed) == ("uniform_noise", 0.5, 9)
    # The true class comes back for about a quarter of the selected samples: 125 of 500.
    assert set(record.indices.tolist()) < set(record.selected.tolist())
    assert abs(len(record.selected) - len(record.indices) - 125) < 45


def test_record_survives_saving(tmp_path):
    record = UniformNoise(0.3, seed=2)(balanced_labels(50, 10), 10)
    record.save(tmp_path / "noise.pt")
    loaded = CorruptionRecord.load(tmp_path / "noise.pt")
    for name in ("labels", "true_labels", "indices", "selected"):
        assert torch.equal(getattr(loaded, name), getattr(record, name))
    assert (loaded.name, loaded.rate, loaded.seed) == (record.name, record.rate, record.seed)


@pytest.mark.parametrize("content", [b"", b"not a torch file at all", None])
def test_damaged_record_file_is_named(tmp_path, content):
    path = tmp_path / "noise.pt"
    UniformNoise(0.3)(balanced_labels(50, 10), 10).save(path)
    path.write_bytes(path.read_bytes()[:400] if content is None else content)
    with pytest.raises(ValueError, match=r"noise\.pt cannot be read as a corruption record"):
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
    del content["indices"]
    torch.save(content | {"rate": "0.3"}, path)
    with pytest.raises(ValueError, match=r"\['indices', 'rate'\] are missing or of the wrong type"):
        CorruptionRecord.load(path)


def test_missing_record_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        CorruptionRecord.load(tmp_path / "none.pt")
