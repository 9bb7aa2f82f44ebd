import math
import statistics

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from law_lightning import functional as LF

quick = settings(deadline=None, max_examples=60)


@pytest.mark.parametrize("classes", [1, 2, 5])
def test_the_margin_is_that_of_a_loop(classes):
    draw = torch.Generator().manual_seed(classes)
    logits, target = 9 * torch.randn(40, classes, generator=draw), torch.randint(classes, (40,), generator=draw)
    expected = []
    for row, own in zip(logits.double().softmax(1).tolist(), target.tolist(), strict=True):
        others = [p for c, p in enumerate(row) if c != own]
        expected.append(row[own] - max(others, default=0.0))
    np.testing.assert_allclose(LF.margin(logits, target), expected, atol=1e-6)


def test_the_margin_is_a_feature_as_it_is():
    """Not standardised; zero where it is not a number, or the target is ignored."""
    logits = torch.tensor([[9.0, 0.0], [9.0, 0.0], [math.nan, 0.0], [0.0, 9.0]])
    target = torch.tensor([0, 1, 0, -100])
    found = LF.sample_features(torch.rand(4), logits, target, ("loss", "margin"), target != -100)
    plain = LF.sample_features(torch.rand(4), logits, target, ("margin",), target != -100)
    assert torch.equal(found[:, 1:], plain)
    torch.testing.assert_close(plain[:, 0], torch.tensor([math.tanh(4.5), -math.tanh(4.5), 0.0, 0.0]))


@quick
@given(
    st.lists(st.tuples(st.integers(1, 9), st.sampled_from([0.0, 0.25, 1.0])), max_size=40), st.sampled_from([1 / 3, 1])
)
def test_confident_error_is_that_of_a_loop(rows, share):
    confidence, accuracy = (torch.tensor([row[k] for row in rows], dtype=torch.float32) for k in (0, 1))
    errors = [1 - row[1] for row in sorted(rows, key=lambda row: -row[0])]  # stable, as ties keep their order
    most = errors[: max(1, round(share * len(errors)))]
    expected = 0.0 if sum(errors) == 0 else sum(most) / len(most) / (sum(errors) / len(errors))
    assert LF.confident_error(confidence, accuracy, share) == pytest.approx(expected)


@pytest.mark.parametrize(("noise", "low", "high"), [(0.0, 0.0, 0.4), (0.2, 0.5, 0.9), (0.4, 0.65, 1.0)])
def test_confident_error_tells_wrong_labels_from_hard_samples(noise, low, high):
    """A calibrated network on samples of any difficulty; a wrong label is any class."""
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.3, 1.0, 20_000)
    right = (rng.random(20_000) < confidence) & (rng.random(20_000) >= 0.9 * noise)
    assert low <= LF.confident_error(torch.from_numpy(confidence), torch.from_numpy(right)) <= high


def test_general_opens_with_the_noise():
    """Weights of one below the gate; then nearly none for a sample that is contradicted."""
    noise = torch.tensor([0.0, 0.5, 0.65, 2.0])
    assert LF.general_theta(noise)[:, 0].tolist() == pytest.approx([0.0, 0.0, 4.0, 4.0])
    assert LF.general_theta(noise[3], ("loss", "margin")).tolist() == pytest.approx([0.0, 4.0, 0.8])
    margins = torch.tensor([[-1.0], [-0.2], [1.0]])
    assert LF.sample_weights(margins, LF.general_theta(noise[0])).tolist() == [1.0] * 3
    weights = LF.sample_weights(margins, LF.general_theta(noise[3]))
    assert weights.tolist() == pytest.approx([1 - math.tanh(3.2), 1.0, 1 + math.tanh(4.8)], rel=1e-5)


@quick
@given(st.lists(st.tuples(st.integers(0, 99), st.sampled_from([0, 1, 9, 999])), min_size=1, max_size=9))
def test_the_class_ratio_is_that_of_a_loop(counts):
    quotients = [(wanted + 1) / (given + 1) for wanted, given in counts]
    seen = [quotient for quotient, (_, given) in zip(quotients, counts, strict=True) if given]
    expected = [1.0] * len(counts)
    if seen:
        most = 10 * statistics.median_low(seen)
        expected = [min(each, most) / statistics.fmean(min(other, most) for other in seen) for each in quotients]
    assert LF.class_ratio(*torch.tensor(counts).T).tolist() == pytest.approx(expected)


def test_the_class_ratio_of_a_class_that_is_nearly_or_wholly_absent_leaves_the_others_their_weights():
    found = LF.class_ratio(torch.tensor([99, 99, 99, 99]), torch.tensor([999, 999, 999, 0]))
    torch.testing.assert_close(found, torch.tensor([1.0, 1.0, 1.0, 10.0]))
    found = LF.class_ratio(torch.tensor([99, 99, 99]), torch.tensor([999, 999, 1]))
    torch.testing.assert_close(found, torch.tensor([1.0, 1.0, 10.0]) / 4)
    assert LF.class_ratio(torch.tensor([3, 0]), torch.tensor([0, 0])).tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("right", "expected"),
    [([3, 3], False), ([3, 4], False), ([10, 12], False), ([8, 12], True), ([0, 12], True), ([4, 3], False)],
)
def test_worse_is_beyond_two_standard_errors(right, expected):
    """Of 12 samples, so many right; by a loop over the differences."""
    own, other = (torch.tensor([1.0] * n + [0.0] * (12 - n)) for n in right)
    other = other.flip(0)
    differences = [a - b for a, b in zip(own.tolist(), other.tolist(), strict=True)]
    mean = sum(differences) / 12
    error = math.sqrt(sum((d - mean) ** 2 for d in differences) / 12) / math.sqrt(12)
    assert LF.is_worse(own, other) == (mean < -2 * error) == expected


def test_a_prediction_that_is_not_a_number_is_not_confident():
    confidence = torch.tensor([math.nan, 0.9, 0.8, 0.7, 0.6, 0.5])
    assert LF.confident_error(confidence, torch.tensor([0.0, 1.0, 1.0, 1.0, 1.0, 1.0])) == 0.0
