import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st

import law_lightning.conf
from hostile import Evil
from law_lightning.data import (
    AsymmetricNoise,
    Compose,
    CorruptionRecord,
    DiscardClasses,
    LongTail,
    PairNoise,
    UniformNoise,
)


def balanced_labels(num_samples, num_classes):
    return torch.arange(num_samples) % num_classes


def sizes(record, num_classes):
    return torch.bincount(record.labels, minlength=num_classes).tolist()


@settings(max_examples=60, deadline=None)
@given(
    num_classes=st.integers(2, 9),
    shares=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    seed=st.integers(-(2**63), 2**64 - 1),
    data=st.data(),
)
def test_every_corruption_is_nested_deterministic_and_leaves_all_else_alone(num_classes, shares, seed, data):
    classes = st.integers(0, num_classes - 1)
    mapping = data.draw(st.dictionaries(classes, classes, min_size=1))
    draws = data.draw(st.lists(classes, max_size=40))
    for make in (
        lambda share: UniformNoise(share, seed),
        lambda share: UniformNoise(share, seed, exclude_true=True),
        lambda share: PairNoise(share, seed),
        lambda share: AsymmetricNoise(share, mapping, seed),
        lambda share: DiscardClasses([0, num_classes - 1], 0.9 * share, seed),
        lambda share: LongTail(1 + 19 * share, seed),
    ):
        is_noise = hasattr(make(0.0), "rate")
        labels = torch.tensor(draws if is_noise else draws + 20 * list(range(num_classes)), dtype=torch.int64)
        original = labels.clone()
        torch.manual_seed(1)
        state = torch.get_rng_state()
        low, high, again = (make(share)(labels, num_classes) for share in (*sorted(shares), max(shares)))
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.equal(labels, original)
        for name in ("labels", "true_labels", "selected", "kept"):
            assert torch.equal(getattr(high, name), getattr(again, name))
        for record in (low, high):
            assert record.labels.dtype == torch.int64
            assert ((record.labels >= 0) & (record.labels < num_classes)).all()
            kept = record.kept.tolist()
            assert kept == sorted(set(kept))
            assert [int(original[i]) for i in kept] == record.true_labels.tolist()
            wrong = [i for i in range(len(kept)) if record.labels[i] != record.true_labels[i]]
            assert record.indices.tolist() == wrong
            assert set(wrong) <= set(record.selected.tolist())
        assert set(high.kept.tolist()) <= set(low.kept.tolist())
        assert set(low.selected.tolist()) <= set(high.selected.tolist())
        if is_noise:
            assert torch.equal(low.kept, torch.arange(len(labels)))
            assert torch.equal(low.labels[low.selected], high.labels[low.selected])
        else:
            assert len(low.selected) == 0


def test_the_draws_of_uniform_noise_stay_what_they_are():
    # Searches and records of earlier versions depend on them: one draw to select, one for the class.
    labels = balanced_labels(200, 7)
    generator = torch.Generator().manual_seed(11)
    chosen = torch.rand(200, generator=generator, dtype=torch.float64) < 0.4
    drawn = torch.randint(7, (200,), generator=generator)
    expected = [int(drawn[i]) if chosen[i] else int(labels[i]) for i in range(200)]
    assert UniformNoise(0.4, seed=11)(labels, 7).labels.tolist() == expected


def test_without_the_true_class_replacements_are_uniform_over_all_others():
    noisy = UniformNoise(1.0, 3, exclude_true=True)(torch.full((50_000,), 2), 5)
    expected = torch.tensor([0.25, 0.25, 0.0, 0.25, 0.25])
    assert torch.allclose(torch.tensor(sizes(noisy, 5)) / 50_000, expected, atol=0.01)


@pytest.mark.parametrize(("num_classes", "rate"), [(1, 1.0), (4, 0.5), (9, 0.2)])
def test_pair_noise_goes_to_the_next_class(num_classes, rate):
    record = PairNoise(rate, 5)(balanced_labels(50, num_classes), num_classes)
    for i in range(50):
        chosen = i in record.selected.tolist()
        assert int(record.labels[i]) == ((i % num_classes + 1) % num_classes if chosen else i % num_classes)


@pytest.mark.parametrize("mapping", [None, {0: 3, 4: 4, 7: 0}])
def test_asymmetric_noise_touches_mapped_classes_alone(mapping):
    labels = balanced_labels(20_000, 10)
    record = AsymmetricNoise(0.3, mapping, seed=2)(labels, 10)
    similar = {9: 1, 2: 0, 3: 5, 5: 3, 4: 7} if mapping is None else mapping
    for c in range(10):
        of_class = record.labels[labels == c]
        moved = of_class[of_class != c]
        is_moved = similar.get(c, c) != c
        assert moved.unique().tolist() == ([similar[c]] if is_moved else [])
        assert abs(len(moved) / 2000 - (0.3 if is_moved else 0.0)) < 0.05


@settings(max_examples=40, deadline=None)
@given(counts=st.lists(st.integers(0, 40), min_size=3, max_size=6), share=st.floats(0, 0.9), seed=st.integers(0, 2**40))
def test_discarding(counts, share, seed):
    counts[0] += 10
    counts[2] += 10
    labels = torch.from_numpy(np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts)))
    kept = Counter(DiscardClasses([0, 2], share, seed)(labels, len(counts)).labels.tolist())
    for c, count in enumerate(counts):
        assert kept[c] == (round(count * (1 - share)) if c in (0, 2) else count)


@settings(max_examples=40, deadline=None)
@given(have=st.lists(st.integers(200, 500), min_size=2, max_size=12), imbalance=st.floats(1, 300))
def test_the_long_tail_is_exponential(have, imbalance):
    labels = torch.repeat_interleave(torch.arange(len(have)), torch.tensor(have))
    for c, count in enumerate(sizes(LongTail(imbalance)(labels, len(have)), len(have))):
        profile = max(have) * math.exp(-math.log(imbalance) * c / (len(have) - 1))
        # Where the two formulas fall on either side of a half, they may round differently.
        assert count == have[c] or (count < have[c] and abs(count - profile) <= 0.5 + 1e-6)
        assert count <= profile + 0.5 + 1e-6


@settings(max_examples=30, deadline=None)
@given(rate=st.floats(0, 1), share=st.floats(0, 0.8), imbalance=st.floats(1, 5), seed=st.integers(0, 2**30))
def test_each_works_on_what_the_former_left(rate, share, imbalance, seed):
    parts = [
        PairNoise(rate, seed),
        DiscardClasses([1], share, seed),
        LongTail(imbalance, seed),
        UniformNoise(0.2, seed),
    ]
    record = Compose(parts)(balanced_labels(120, 3), 3)
    # The same by hand, sample by sample.
    ids, present, chosen = list(range(120)), [i % 3 for i in range(120)], [False] * 120
    for each in parts:
        step = each(torch.tensor(present), 3)
        selected = set(step.selected.tolist())
        kept = step.kept.tolist()
        ids, chosen = [ids[i] for i in kept], [chosen[i] or place in selected for place, i in enumerate(kept)]
        present = step.labels.tolist()
    assert record.kept.tolist() == ids == sorted(ids)
    assert record.labels.tolist() == present
    assert record.true_labels.tolist() == [i % 3 for i in ids]
    assert record.selected.tolist() == [place for place, each in enumerate(chosen) if each]


def test_a_saved_record_is_the_same_in_plain_python(tmp_path):
    parts = [DiscardClasses(np.array([1]), np.float32(0.5)), UniformNoise(np.float64(0.5), seed=np.int64(3))]
    record = Compose(parts)(balanced_labels(50, 5), 5)
    record.save(tmp_path / "noise.pt")
    loaded = CorruptionRecord.load(tmp_path / "noise.pt")
    for each in ("labels", "true_labels", "indices", "selected", "kept"):
        assert torch.equal(getattr(loaded, each), getattr(record, each))
    assert (loaded.name, loaded.settings) == (record.name, record.settings)
    assert record.name == "discard+uniform_noise"
    assert record.settings == {
        "1 discard": {"classes": (1,), "share": 0.5, "seed": 0},
        "2 uniform_noise": {"rate": 0.5, "seed": 3, "exclude_true": False},
    }
    (tmp_path / "noise.pt.partial").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"noise\.pt could not be written: No space left"):
        record.save(tmp_path / "noise.pt")


@pytest.mark.parametrize(
    "change",
    [
        "cut",
        "evil",
        {"format": "law_lightning.corruption_record.v1"},
        {"more": 1},
        {"kept": torch.arange(4)},
        {"kept": torch.arange(5).flip(0)},
        {"selected": torch.tensor([-1])},
        {"selected": torch.tensor([5])},
        {"labels": torch.zeros(5)},
        {"true_labels": torch.zeros(1, 5, dtype=torch.int64)},
    ],
)
def test_files_that_are_no_record(tmp_path, change):
    path = tmp_path / "noise.pt"
    with pytest.raises(FileNotFoundError):
        CorruptionRecord.load(path)
    UniformNoise(0.3)(torch.arange(5), 5).save(path)
    if change == "evil":
        change = {"settings": {"rate": Evil(tmp_path / "executed")}}
    if change == "cut":
        path.write_bytes(path.read_bytes()[:400])
    else:
        torch.save(torch.load(path, weights_only=True) | change, path)
    with pytest.raises(ValueError, match=r"noise\.pt is no corruption record of this version, or is damaged"):
        CorruptionRecord.load(path)
    assert not (tmp_path / "executed").exists()


#: What some configs need to fit 800 digits, and what their record says.
CONFIGS = {
    "uniform_noise": (["corruption.rate=0.3", "corruption.exclude_true=true"], "uniform_noise"),
    "pair_noise": (["corruption.rate=0.3"], "pair_noise"),
    "asymmetric_noise": (["corruption.rate=1", "corruption.mapping={3: 8, 5: 6}"], "asymmetric_noise"),
    "label_file": (["corruption.path=labels.npy"], "label_file"),
    "discard": (["corruption.classes=[3,5]", "corruption.share=0.5"], "discard"),
    "long_tail": (["corruption.imbalance=10"], "long_tail"),
    "discard_noise": ([], "discard+uniform_noise"),
    "long_tail_noise": (["corruption.corruptions.0.imbalance=10"], "long_tail+uniform_noise"),
}


@pytest.mark.parametrize("choice", CONFIGS)
def test_the_configs_corrupt_the_digits(choice, tmp_path, monkeypatch):
    folder = Path(law_lightning.conf.__file__).parent / "corruption"
    assert {path.stem for path in folder.glob("*.yaml")} == {*CONFIGS, "none"}
    monkeypatch.chdir(tmp_path)
    np.save("labels.npy", np.zeros(1797, dtype=np.int64))
    overrides, name = CONFIGS[choice]
    with initialize_config_module("law_lightning.conf", version_base="1.3"):
        config = compose("law_search", ["data.train_size=800", f"corruption={choice}", *overrides])
        data = instantiate(config.data, _convert_="all")
    data.setup()
    record = data.corruption_record
    assert record.name == name
    assert len(record.indices) > 0 or len(record.kept) < 800
    if choice == "asymmetric_noise":
        assert set(record.true_labels[record.selected].tolist()) == {3, 5}


FOUR, GAP = balanced_labels(12, 3), balanced_labels(12, 3) // 2 * 2  # of GAP's classes, 1 has no samples


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PairNoise(1.5), r"noise rate is 1\.5, but it must lie in \[0, 1\]"),
        (lambda: AsymmetricNoise(math.nan), "noise rate is nan"),
        (lambda: PairNoise("0.4"), "noise rate is '0.4', but it must be a number"),
        (lambda: UniformNoise(0.2, seed=0.5), r"seed is 0\.5, but it must be a whole number"),
        (lambda: UniformNoise(0.2, exclude_true="no"), "exclude_true is 'no', but it must be True or False"),
        (lambda: UniformNoise(0.2, exclude_true=True)(FOUR * 0, 1), "exclude_true=True needs at least 2 classes"),
        (lambda: UniformNoise(0.4)(FOUR, 2), r"label 2, but with num_classes=2 .* \[0, 1\]"),
        (lambda: UniformNoise(0.4)(FOUR - 1, 2), "label -1, but with num_classes=2"),
        (lambda: UniformNoise(0.4)(torch.zeros(3), 2), "must be an int64 tensor of shape"),
        (lambda: AsymmetricNoise(0.2, {"cat": 3}), "A class in mapping is 'cat', but it must be a whole number"),
        (lambda: AsymmetricNoise(0.2)(FOUR, 5), "mapping names class 9, .* 5 classes 0 to 4"),
        (lambda: AsymmetricNoise(0.5, {}), "mapping is empty: name at least one class"),
        (lambda: DiscardClasses([], 0.5), r"classes is \[\], but it must name"),
        (lambda: DiscardClasses([1, 1], 0.5), r"classes is \[1, 1\], but it must name"),
        (lambda: DiscardClasses([0.5], 0.5), r"A class in classes is 0\.5, but it must be a whole number"),
        (lambda: DiscardClasses([0], 1.0), r"share is 1\.0, but it must lie in \[0, 1\)"),
        (lambda: DiscardClasses([3], 0.5)(FOUR, 3), "classes names class 3, .* 3 classes 0 to 2"),
        (lambda: DiscardClasses([1], 0.96)(FOUR, 3), r"share=0\.96 leaves none of the 4 .* of class 1: lower it"),
        (lambda: DiscardClasses([1], 0.1)(GAP, 3), "none of the 0 training samples of class 1"),
        (lambda: LongTail(0.5), r"imbalance is 0\.5, but it must be at least 1"),
        (lambda: LongTail(math.inf), "imbalance is inf"),
        (lambda: LongTail(100)(FOUR, 3), r"imbalance=100\.0 leaves none of the 4 .* class 1: lower it"),
        (lambda: LongTail(2)(GAP, 3), "none of the 0 training samples of class 1"),
        (lambda: Compose([]), r"corruptions is \[\], but it must hold at least one Corruption"),
        (lambda: Compose([PairNoise(0.5), len]), "corruptions is .*built-in function len.* and nothing else"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
