import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from law_lightning.data import CorruptionRecord, DiscardClasses, LongTail
from law_lightning.data.corruption import long_tail_counts


def mixed_labels(counts, seed=0):
    """Labels of so many samples a class, in a random order."""
    labels = np.repeat(np.arange(len(counts)), counts)
    return torch.from_numpy(np.random.default_rng(seed).permutation(labels))


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(0, 40), min_size=3, max_size=6),
    shares=st.tuples(st.floats(0, 0.9), st.floats(0, 0.9)),
    seed=st.integers(0, 2**40),
)
def test_discarding(counts, shares, seed):
    counts[0] += 10
    counts[2] += 10
    labels = mixed_labels(counts)
    original = labels.clone()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    low, high = (DiscardClasses([0, 2], share, seed)(labels, len(counts)) for share in sorted(shares))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(labels, original)
    kept = Counter(low.labels.tolist())
    for c, count in enumerate(counts):
        assert kept[c] == (round(count * (1 - min(shares))) if c in (0, 2) else count)
    assert low.kept.tolist() == sorted(set(low.kept.tolist()))
    assert [int(labels[i]) for i in low.kept] == low.labels.tolist() == low.true_labels.tolist()
    assert len(low.indices) == len(low.selected) == 0
    assert set(high.kept.tolist()) <= set(low.kept.tolist())


def test_the_papers_discard():
    labels = mixed_labels([5000] * 10)
    record = DiscardClasses([0, 1], 0.96)(labels, 10)
    assert torch.bincount(record.labels).tolist() == [200, 200] + [5000] * 8
    again, other = DiscardClasses([0, 1], 0.96)(labels, 10), DiscardClasses([0, 1], 0.96, seed=1)(labels, 10)
    assert torch.equal(record.kept, again.kept)
    assert not torch.equal(record.kept, other.kept)
    assert record.settings == {"classes": (0, 1), "share": 0.96, "seed": 0}


def test_which_samples_are_left_out_is_even():
    labels = torch.zeros(40, dtype=torch.int64)
    times = torch.zeros(40)
    for seed in range(400):
        times[DiscardClasses([0], 0.5, seed)(labels, 1).kept] += 1
    assert (times / 400 - 0.5).abs().max() < 0.12


@settings(max_examples=40, deadline=None)
@given(have=st.lists(st.integers(1, 500), min_size=2, max_size=12), imbalance=st.floats(1, 300))
def test_the_long_tail_is_exponential(have, imbalance):
    counts = long_tail_counts(have, imbalance)
    for c, count in enumerate(counts):
        profile = max(have) * math.exp(-math.log(imbalance) * c / (len(have) - 1))
        # Where the two formulas fall on either side of a half, they may round differently.
        assert count == have[c] or (count < have[c] and abs(count - profile) <= 0.5 + 1e-6)
        assert count <= profile + 0.5 + 1e-6


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(20, 40), min_size=2, max_size=5),
    rates=st.tuples(st.floats(1, 20), st.floats(1, 20)),
    seed=st.integers(0, 2**40),
)
def test_long_tails_are_nested_and_leave_all_else_alone(counts, rates, seed):
    labels = mixed_labels(counts)
    original = labels.clone()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    low, high, again = (LongTail(rate, seed)(labels, len(counts)) for rate in (*sorted(rates), max(rates)))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(labels, original)
    assert set(high.kept.tolist()) <= set(low.kept.tolist())
    assert torch.equal(high.kept, again.kept)
    assert high.kept.tolist() == sorted(set(high.kept.tolist()))
    assert [int(labels[i]) for i in high.kept] == high.labels.tolist() == high.true_labels.tolist()
    sizes = np.bincount(high.labels.numpy(), minlength=len(counts)).tolist()
    assert sizes == long_tail_counts(counts, max(rates))


def test_numpy_s_numbers_become_plain(tmp_path):
    labels = mixed_labels([9, 9])
    for made in (DiscardClasses(np.array([1]), np.float64(0.5), np.int64(2)), LongTail(np.float32(2), np.int64(2))):
        made(labels, 2).save(tmp_path / "record.pt")
        assert CorruptionRecord.load(tmp_path / "record.pt").settings == made.settings()


def test_long_tail_of_cifar():
    record = LongTail(100)(mixed_labels([5000] * 10), 10)
    sizes = torch.bincount(record.labels).tolist()
    # Cui et al. 2019 give 5000 to 50 images for imbalance 100.
    assert (sizes[0], sizes[9]) == (5000, 50)
    assert sizes == sorted(sizes, reverse=True)
    small = LongTail(100)(mixed_labels([500, 30, 500]), 3)
    assert torch.bincount(small.labels).tolist() == [500, 30, 5]  # a class keeps what it has


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DiscardClasses([], 0.5), r"classes is \[\], but it must name"),
        (lambda: DiscardClasses([1, 1], 0.5), r"classes is \[1, 1\], but it must name"),
        (lambda: DiscardClasses([0], 1.0), r"share is 1\.0, but it must lie in \[0, 1\)"),
        (lambda: DiscardClasses([0], math.nan), "share is nan"),
        (lambda: DiscardClasses([3], 0.5)(mixed_labels([4, 4, 4]), 3), "classes names class 3, .* 3 classes 0 to 2"),
        (lambda: DiscardClasses([-1], 0.5)(mixed_labels([4, 4, 4]), 3), "classes names class -1"),
        (
            lambda: DiscardClasses([1], 0.96)(mixed_labels([4, 4, 4]), 3),
            r"share 0\.96 of the 4 training samples of class 1 leaves none: lower share",
        ),
        (
            lambda: DiscardClasses([1], 0.1)(mixed_labels([4, 0, 4]), 3),
            "class 1, of which there are no training samples: leave it out",
        ),
        (lambda: LongTail(0.5), r"imbalance is 0\.5, but it must be at least 1"),
        (lambda: LongTail(math.inf), "imbalance is inf"),
        (lambda: LongTail(math.nan), "imbalance is nan"),
        (lambda: LongTail("steep"), "imbalance is 'steep', but it must be a number"),
        (lambda: DiscardClasses([0], "half"), "share is 'half', but it must be a number"),
        (lambda: DiscardClasses(0, 0.5), "classes is 0, but it must be a list"),
        (lambda: DiscardClasses([0.5], 0.5), r"A class in classes is 0\.5, but it must be a whole number"),
        (lambda: DiscardClasses([True], 0.5), "A class in classes is True"),
        (
            lambda: LongTail(100)(mixed_labels([40, 40, 40]), 3),
            r"imbalance 100\.0 leaves none of the 40 .* class 2: lower",
        ),
        (lambda: LongTail(2)(mixed_labels([40, 0, 40]), 3), "needs samples of all 3 classes, .* of class 1: take more"),
    ],
)
def test_bad_settings_of_imbalance(make, message):
    with pytest.raises(ValueError, match=message):
        make()
