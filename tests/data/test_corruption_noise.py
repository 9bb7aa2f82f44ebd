import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from law_lightning.data import AsymmetricNoise, Compose, Corruption, CorruptionRecord, PairNoise, UniformNoise
from law_lightning.data.corruption import asymmetric_noise, pair_noise, uniform_noise


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


def test_the_draws_of_uniform_noise_stay_what_they_are():
    # Searches and records of earlier versions depend on them: one draw to select, one for the class.
    labels = balanced_labels(200, 7)
    generator = torch.Generator().manual_seed(11)
    chosen = torch.rand(200, generator=generator, dtype=torch.float64) < 0.4
    drawn = torch.randint(7, (200,), generator=generator)
    expected = [int(drawn[i]) if chosen[i] else int(labels[i]) for i in range(200)]
    assert uniform_noise(labels, 0.4, 7, seed=11)[0].tolist() == expected


def test_excluding_the_true_class_draws_the_others_evenly():
    labels = torch.full((40_000,), 2)
    noisy, changed = uniform_noise(labels, 1.0, 5, seed=3, exclude_true=True)
    assert len(changed) == 40_000
    shares = torch.bincount(noisy, minlength=5) / 40_000
    assert torch.allclose(shares, torch.tensor([0.25, 0.25, 0.0, 0.25, 0.25]), atol=0.01)
    with pytest.raises(ValueError, match="exclude_true=True needs at least 2 classes"):
        UniformNoise(0.5, exclude_true=True)(torch.zeros(3, dtype=torch.int64), 1)


@settings(max_examples=40, deadline=None)
@given(num_classes=st.integers(1, 9), rates=st.tuples(st.floats(0, 1), st.floats(0, 1)), seed=st.integers(0, 2**40))
def test_pair_noise_goes_to_the_next_class(num_classes, rates, seed):
    labels = balanced_labels(50, num_classes)
    low, high = (PairNoise(rate, seed)(labels, num_classes) for rate in sorted(rates))
    for i in range(50):
        chosen = i in low.selected.tolist()
        assert int(low.labels[i]) == ((i % num_classes + 1) % num_classes if chosen else i % num_classes)
    assert set(low.selected.tolist()) <= set(high.selected.tolist())


def test_pair_noise_has_its_rate():
    record = PairNoise(0.45, seed=1)(balanced_labels(40_000, 10), 10)
    assert abs(len(record.indices) / 40_000 - 0.45) < 0.01


def test_pure_functions_are_the_corruptions():
    labels = balanced_labels(60, 4)
    for (noisy, changed), corruption in (
        (uniform_noise(labels, 0.5, 4, seed=3, exclude_true=True), UniformNoise(0.5, 3, exclude_true=True)),
        (pair_noise(labels, 0.5, 4, seed=3), PairNoise(0.5, 3)),
        (asymmetric_noise(labels, 0.5, 4, {0: 2, 3: 1}, seed=3), AsymmetricNoise(0.5, {0: 2, 3: 1}, 3)),
    ):
        record = corruption(labels, 4)
        assert noisy.tolist() == record.labels.tolist()
        assert changed.tolist() == [i for i in range(60) if noisy[i] != i % 4]


@settings(max_examples=40, deadline=None)
@given(
    num_classes=st.integers(2, 9),
    rates=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    seed=st.integers(-(2**63), 2**64 - 1),
    data=st.data(),
)
def test_every_noise_is_nested_deterministic_and_leaves_all_else_alone(num_classes, rates, seed, data):
    classes = st.integers(0, num_classes - 1)
    mapping = data.draw(st.dictionaries(classes, classes, min_size=1))
    labels = torch.tensor(data.draw(st.lists(classes, max_size=40)), dtype=torch.int64)
    original = labels.clone()
    for make in (
        lambda rate: UniformNoise(rate, seed),
        lambda rate: UniformNoise(rate, seed, exclude_true=True),
        lambda rate: PairNoise(rate, seed),
        lambda rate: AsymmetricNoise(rate, mapping, seed),
    ):
        torch.manual_seed(1)
        state = torch.get_rng_state()
        low, high, again = (make(rate)(labels, num_classes) for rate in (*sorted(rates), max(rates)))
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.equal(labels, original)
        assert torch.equal(high.labels, again.labels)
        assert torch.equal(low.kept, torch.arange(len(labels)))
        assert set(low.selected.tolist()) <= set(high.selected.tolist())
        assert torch.equal(low.labels[low.selected], high.labels[low.selected])
        assert set(low.indices.tolist()) <= set(low.selected.tolist())
        assert ((high.labels >= 0) & (high.labels < num_classes)).all()
    # The last was asymmetric noise: by hand.
    for i, before in enumerate(original.tolist()):
        chosen = i in high.selected.tolist()
        assert not chosen or before in mapping
        assert int(high.labels[i]) == (mapping[before] if chosen else before)


def test_numpy_s_numbers_become_plain(tmp_path):
    record = UniformNoise(np.float64(0.4), np.int64(3))(balanced_labels(20, 4), 4)
    record.save(tmp_path / "record.pt")
    assert CorruptionRecord.load(tmp_path / "record.pt").settings == {"rate": 0.4, "seed": 3, "exclude_true": False}


def test_the_record_stays_true_when_the_caller_writes_into_its_labels():
    labels = balanced_labels(20, 4)
    record = PairNoise(0.0)(labels, 4)
    labels.zero_()
    record.labels.zero_()
    assert torch.equal(record.true_labels, balanced_labels(20, 4))


@pytest.mark.parametrize(
    ("rows", "num_rows", "message"),
    [
        (torch.tensor([0, 5, 2]), 5, r"row 5, but with num_rows=5 rows lie in \[0, 4\]"),
        (torch.tensor([0, -1, 2]), 5, "row -1"),
        (torch.tensor([0, 1]), 5, r"shape \[3\], one for each label, but it is torch\.int64 of shape \[2\]"),
        (torch.zeros(3), 5, "must be an int64 tensor .* torch.float32"),
        (torch.arange(3), None, "rows and num_rows go together"),
        (None, 5, "rows and num_rows go together"),
    ],
)
def test_rows_that_do_not_fit(rows, num_rows, message):
    for corruption in (PairNoise(0.5), Compose([PairNoise(0.5)])):
        with pytest.raises(ValueError, match=message):
            corruption(torch.tensor([0, 1, 2]), 3, rows, num_rows)


def test_a_corruption_without_a_name_is_told():
    with pytest.raises(NotImplementedError, match="Corruption must define name"):
        Corruption()(torch.tensor([0]), 1)


def test_asymmetric_noise_touches_mapped_classes_alone():
    labels = balanced_labels(20_000, 10)
    record = AsymmetricNoise(0.3, seed=2)(labels, 10)
    similar = {9: 1, 2: 0, 3: 5, 5: 3, 4: 7}
    for c in range(10):
        of_class = record.labels[labels == c]
        moved = of_class[of_class != c]
        assert moved.unique().tolist() == ([similar[c]] if c in similar else [])
        assert abs(len(moved) / 2000 - (0.3 if c in similar else 0.0)) < 0.05
    assert AsymmetricNoise(0.3, mapping={"1": 2}).mapping == {1: 2}  # as a config may give it


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PairNoise(1.5), r"noise rate is 1\.5"),
        (lambda: AsymmetricNoise(-1.0), r"noise rate is -1\.0"),
        (lambda: PairNoise("0.4"), "noise rate is '0.4', but it must be a number"),
        (lambda: PairNoise(True), "noise rate is True, but it must be a number"),
        (lambda: UniformNoise(0.2, seed=0.5), r"seed is 0\.5, but it must be a whole number"),
        (lambda: UniformNoise(0.2, seed=2**64), r"seed is 18446744073709551616, but it must lie in"),
        (lambda: UniformNoise(0.2, exclude_true="no"), "exclude_true is 'no', but it must be True or False"),
        (
            lambda: AsymmetricNoise(0.2, mapping={"cat": 3}),
            "A class in mapping is 'cat', but it must be a whole number",
        ),
        (lambda: AsymmetricNoise(0.2, mapping={1.7: 3}), r"A class in mapping is 1\.7"),
        (lambda: AsymmetricNoise(0.2, mapping={0: True}), "A class in mapping is True"),
        (lambda: AsymmetricNoise(0.2, mapping={"1_0": 3}), "A class in mapping is '1_0'"),
        (lambda: AsymmetricNoise(0.2, mapping={"1": 3, 1: 2}), "must name each class only once"),
        (lambda: AsymmetricNoise(0.2, mapping={}), r"mapping is \{\}, but .* one or more"),
        (lambda: AsymmetricNoise(0.2, mapping=[1, 2]), "must map class indices to class indices"),
        (
            lambda: AsymmetricNoise(0.2)(torch.zeros(3, dtype=torch.int64), 5),
            "mapping names class 9, .* 5 classes 0 to 4",
        ),
        (lambda: AsymmetricNoise(0.2, {0: -1})(torch.zeros(3, dtype=torch.int64), 5), "mapping names class -1"),
    ],
)
def test_bad_settings_of_noise(make, message):
    with pytest.raises(ValueError, match=message):
        make()
