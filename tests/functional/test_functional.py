import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from law_lightning import functional as LF

quick = settings(deadline=None, max_examples=60)
numbers = st.floats(-50, 50, width=32)


def arrays(elements=numbers, min_rows=1, max_columns=5):
    shapes = st.tuples(st.integers(min_rows, 7), st.integers(1, max_columns))
    return shapes.flatmap(lambda shape: hnp.arrays(np.float32, shape, elements=elements))


@quick
@given(arrays())
def test_entropy_is_scipys(logits):
    expected = scipy.stats.entropy(scipy.special.softmax(logits.astype(np.float64), axis=1), axis=1)
    np.testing.assert_allclose(LF.entropy(torch.from_numpy(logits)), expected, atol=1e-5)


def test_entropy_lies_between_certain_and_uniform():
    logits = torch.tensor([[1000.0, 0.0, -1000.0], [7.0, 7.0, 7.0], [1e30, 1e30, -1e30]])
    torch.testing.assert_close(LF.entropy(logits), torch.tensor([0.0, math.log(3), math.log(2)]))
    assert LF.entropy(torch.tensor([[3.0], [-8.0]])).tolist() == [0.0, 0.0]  # one class


@quick
@given(arrays(min_rows=2))
def test_density_is_the_mean_product_with_the_others(logits):
    rows = logits.astype(np.float64).tolist()
    expected = []
    for i, mine in enumerate(rows):
        products = [sum(a * b for a, b in zip(mine, other, strict=True)) for j, other in enumerate(rows) if j != i]
        expected.append(sum(products) / len(products))
    np.testing.assert_allclose(LF.density(torch.from_numpy(logits)), expected, rtol=1e-4, atol=5e-2)


@pytest.mark.parametrize("num_classes", [2, 3, 10, 1000])
def test_label_is_evenly_spaced_from_minus_one_to_one(num_classes):
    labels = LF.label(torch.arange(num_classes), num_classes)
    np.testing.assert_allclose(labels, np.linspace(-1, 1, num_classes), atol=1e-6)
    assert labels.dtype == torch.float32
    assert LF.label(torch.zeros(3, dtype=torch.int64), 1).tolist() == [0.0, 0.0, 0.0]


def naive_normalize(column):
    """One feature, in float64: finite entries are standardised; the rest, and what does not vary, is 0."""
    finite = [x for x in column if math.isfinite(x)]
    if not finite:
        return [0.0] * len(column)
    mean = sum(finite) / len(finite)
    deviation = math.sqrt(sum((x - mean) ** 2 for x in finite) / len(finite))
    return [(x - mean) / deviation if math.isfinite(x) and deviation > 0 else 0.0 for x in column]


coarse = st.one_of(st.integers(-200, 200).map(lambda n: n / 4), st.sampled_from([math.nan, math.inf, -math.inf]))


@quick
@given(arrays(elements=coarse.map(np.float32)))
def test_normalize_features_is_the_naive_one(features):
    expected = np.array([naive_normalize(column) for column in features.T.astype(np.float64).tolist()]).T
    np.testing.assert_allclose(LF.normalize_features(torch.from_numpy(features)), expected, atol=1e-4)


@quick
@given(arrays(elements=st.floats(width=32, allow_subnormal=True)))
def test_normalized_features_are_always_finite_and_bounded(features):
    normalized = LF.normalize_features(torch.from_numpy(features))
    assert normalized.shape == features.shape
    assert normalized.isfinite().all()
    # No standardised value of n exceeds sqrt(n - 1) in size.
    assert (normalized.abs() <= math.sqrt(len(features)) + 1e-2).all()


@pytest.mark.parametrize(
    "column",
    [
        [5.0],
        [0.1] * 7,  # whose float32 mean is not exactly 0.1
        [16777216.0] * 3,
        [math.nan] * 3,
        [math.inf, -math.inf, math.nan],
        [3e38, 3e38, -3e38, 3e38],  # the sum overflows
        [1e30, -1e30],  # the squares overflow
        [-3.4e38, 1.8e38, 1.8e38],  # the difference from the mean overflows
        [4.0, math.inf, 4.0],
    ],
)
def test_a_feature_without_variation_is_zero(column):
    features = torch.tensor(column).unsqueeze(1)
    assert LF.normalize_features(features).tolist() == [[0.0]] * len(column)


def test_small_but_real_variation_is_kept():
    features = torch.tensor([[1e-10], [3e-10]])
    torch.testing.assert_close(LF.normalize_features(features), torch.tensor([[-1.0], [1.0]]))
    assert LF.normalize_features(torch.empty(0, 4)).shape == (0, 4)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(3)
    return torch.rand(6, generator=generator), torch.randn(6, 4, generator=generator), torch.tensor([3, 0, 1, 1, 2, 0])


def naive_columns(loss, logits, target):
    probability = scipy.special.softmax(logits.double().numpy(), axis=1)
    gram = logits.double().numpy() @ logits.double().numpy().T
    n = len(loss)
    return {
        "loss": loss.tolist(),
        "entropy": scipy.stats.entropy(probability, axis=1).tolist(),
        "density": [(gram[i].sum() - gram[i, i]) / (n - 1) for i in range(n)],
        "label": [2 * t / (logits.shape[1] - 1) - 1 for t in target.tolist()],
    }


@pytest.mark.parametrize("names", [LF.FEATURES, ("density", "loss"), ("label",), ("entropy", "label", "density")])
def test_sample_features_are_the_named_columns_in_order(batch, names):
    columns = naive_columns(*batch)
    expected = np.array([naive_normalize(columns[name]) for name in names]).T
    features = LF.sample_features(*batch, names)
    np.testing.assert_allclose(features, expected, atol=1e-5)
    assert features.dtype == torch.float32
    assert torch.equal(LF.sample_features(*batch), LF.sample_features(*batch, ("loss", "entropy", "density", "label")))


def test_low_precision_input_gives_float32_features(batch):
    loss, logits, target = batch
    features = LF.sample_features(loss.bfloat16(), logits.bfloat16(), target)
    assert features.dtype == torch.float32
    expected = LF.sample_features(loss.bfloat16().float(), logits.bfloat16().float(), target)
    torch.testing.assert_close(features, expected)


def test_samples_that_are_not_valid_take_no_part(batch):
    loss, logits, target = batch
    valid = torch.tensor([True, False, True, True, False, True])
    features = LF.sample_features(loss, logits, target, ("loss", "label", "entropy"), valid)
    assert features[~valid].tolist() == [[0.0] * 3] * 2
    expected = LF.sample_features(loss[valid], logits[valid], target[valid], ("loss", "label", "entropy"))
    torch.testing.assert_close(features[valid], expected)


def test_degenerate_batches_have_features_of_zero(batch):
    assert LF.sample_features(*batch, valid=torch.zeros(6, dtype=torch.bool)).tolist() == [[0.0] * 4] * 6
    one = LF.sample_features(torch.tensor([2.0]), torch.tensor([[1.0, 4.0]]), torch.tensor([1]))
    assert one.tolist() == [[0.0] * 4]
    logits = torch.tensor([[1.0], [2.0], [4.0]])  # one class
    features = LF.sample_features(torch.tensor([1.0, 2.0, 3.0]), logits, torch.zeros(3, dtype=torch.int64))
    assert features[:, [1, 3]].tolist() == [[0.0, 0.0]] * 3
    assert (features[:, [0, 2]] != 0).any(dim=0).all()


def test_an_added_feature_is_taken_as_it_is(batch, monkeypatch):
    monkeypatch.setitem(LF.KNOWN_FEATURES, "double", lambda loss, logits, target: 2 * loss)
    features = LF.sample_features(*batch, ("loss", "double"))
    assert torch.equal(features[:, 1], 2 * batch[0])
    assert torch.equal(features[:, :1], LF.sample_features(*batch, ("loss",)))


def test_an_unknown_feature_is_named(batch):
    with pytest.raises(ValueError, match=r"Unknown sample feature 'colour'.*density, label, margin"):
        LF.sample_features(*batch, ("loss", "colour"))


@quick
@given(arrays(max_columns=4), st.data())
def test_sample_weights_are_equation_3(features, data):
    width = features.shape[1]
    theta = data.draw(hnp.arrays(np.float32, width + 1, elements=st.floats(-3, 3, width=32)))
    weights = LF.sample_weights(torch.from_numpy(features), torch.from_numpy(theta))
    for row, weight in zip(features.tolist(), weights.tolist(), strict=True):
        inner = sum(t * f for t, f in zip(theta.tolist(), row, strict=False)) + theta.tolist()[-1]
        assert weight == pytest.approx(1 + math.tanh(inner), abs=1e-4)
        assert 0 <= weight <= 2
    assert LF.sample_weights(torch.from_numpy(features), torch.zeros(width + 1)).tolist() == [1.0] * len(features)


@pytest.mark.parametrize("shape", [(4,), (6,), (5, 1), (1, 5), ()])
def test_a_theta_of_another_shape_is_named(shape):
    with pytest.raises(ValueError, match=r"theta must have shape \[5\].*4 features.*not \["):
        LF.sample_weights(torch.zeros(3, 4), torch.zeros(shape))


def test_sample_weights_are_not_rounded_by_autocast():
    features, theta = torch.tensor([[0.1234567, 1.0]]), torch.tensor([1.0, 0.001, 0.0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        weights = LF.sample_weights(features, theta)
    assert weights.item() == pytest.approx(1 + math.tanh(0.1244567), abs=1e-6)


@pytest.mark.parametrize("valid", [None, torch.tensor([True, False, True])])
def test_renormalized_weights_have_a_mean_of_one(valid):
    weights = torch.tensor([0.5, 7.0, 1.5])
    counted = [0.5, 7.0, 1.5] if valid is None else [0.5, 1.5]
    expected = [weight * len(counted) / sum(counted) for weight in weights.tolist()]
    assert LF.renormalize_weights(weights, valid).tolist() == pytest.approx(expected)
    assert LF.renormalize_weights(torch.zeros(3), valid).tolist() == [0.0] * 3
    assert torch.equal(LF.renormalize_weights(weights, torch.zeros(3, dtype=torch.bool)), weights)


def test_weighted_loss_is_the_mean_of_the_products_and_weights_are_constants():
    loss = torch.tensor([1.0, 2.0, 4.0], requires_grad=True)
    weights = torch.tensor([0.5, 1.0, 2.0], requires_grad=True)
    value = LF.weighted_loss(loss, weights)
    assert value.item() == pytest.approx((0.5 + 2.0 + 8.0) / 3)
    value.backward()
    torch.testing.assert_close(loss.grad, torch.tensor([0.5, 1.0, 2.0]) / 3)
    assert weights.grad is None


@quick
@given(st.lists(st.floats(-100, 100), min_size=1, max_size=6), st.floats(0, 0.99))
def test_smooth_is_the_exponential_average(values, decay):
    average = None
    for value in values:
        average = LF.smooth(average, value, decay)
    expected = values[0] * decay ** (len(values) - 1)
    for age, value in enumerate(reversed(values[1:])):
        expected += (1 - decay) * decay**age * value
    assert average == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_smooth_skips_what_is_not_finite(bad):
    assert LF.smooth(0.7, bad, 0.5) == 0.7
    assert LF.smooth(None, bad, 0.5) == 0.0


@quick
@given(st.integers(0, 50), st.integers(1, 50), st.floats(-3, 3), st.floats(0.1, 5))
def test_reward_weight_is_equation_9(current, more, k, s):
    epochs = current + more
    assert LF.reward_weight(current, epochs, k, s) == pytest.approx(float(np.exp(k * current / epochs)) * s)
    assert LF.reward_weight(epochs, epochs) == pytest.approx(math.e)  # the defaults


@pytest.mark.parametrize(("current", "epochs"), [(-1, 10), (11, 10), (0, 0), (0, -1), (math.nan, 10)])
def test_impossible_epochs_are_named(current, epochs):
    with pytest.raises(ValueError, match=rf"0 <= current_epoch <= num_epochs.*not {current}, {epochs}"):
        LF.reward_weight(current, epochs)


def test_reward_is_the_weighted_difference():
    assert LF.reward(0.9, 0.6) == pytest.approx(0.3)
    assert LF.reward(0.5, 0.75, weight=3.0) == -0.75
    assert LF.reward(0.123, 0.123, weight=2.0) == 0.0


@quick
@given(st.lists(st.tuples(numbers, numbers, st.booleans()), min_size=1, max_size=6), st.floats(0, 1), st.booleans())
def test_td_target_is_equation_12(rows, discount, as_bool):
    reward, value, done = zip(*rows, strict=True)
    flags = torch.tensor(done) if as_bool else torch.tensor(done).float()
    y = LF.td_target(torch.tensor(reward), torch.tensor(value), flags, discount)
    for got, r, q, end in zip(y.tolist(), reward, value, done, strict=True):
        assert got == pytest.approx(r if end else r + discount * q, rel=1e-5, abs=1e-5)


@quick
@given(st.lists(st.tuples(numbers, st.booleans()), min_size=1, max_size=9), st.integers(1, 12), st.floats(0, 1))
def test_n_step_returns_are_the_naive_sums(rows, steps, discount):
    reward, linked = zip(*rows, strict=True)
    totals, counts = LF.n_step_returns(torch.tensor(reward), torch.tensor(linked), steps, discount)
    for i in range(len(rows)):
        total, count = reward[i], 1
        while count < steps and i + count < len(rows) and linked[i + count - 1]:
            total += discount**count * reward[i + count]
            count += 1
        assert counts[i].item() == count
        assert totals[i].item() == pytest.approx(total, rel=1e-4, abs=1e-3)


def test_the_losses_of_critic_and_actor_and_what_has_no_gradient():
    value, target = torch.tensor([1.0, -2.0, 0.5], requires_grad=True), torch.tensor([0.0, 2.0, 0.5])
    assert LF.critic_loss(value, target).item() == pytest.approx((1 + 16 + 0) / 3)
    LF.actor_loss(value).backward()  # ascends the value
    torch.testing.assert_close(value.grad, torch.full((3,), -1 / 3))
    y = LF.td_target(target, value, torch.tensor([0.0, 0.0, 1.0]), torch.tensor([0.5, 0.25, 0.5]))  # a discount each
    assert y.tolist() == [0.5, 1.5, 0.5]
    assert not y.requires_grad
    LF.n_step_returns(target, torch.ones(3, dtype=torch.bool), 3, 0.9)
    assert target.tolist() == [0.0, 2.0, 0.5]  # the rewards stay as they were


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=8))
def test_imitation_weight_is_a_bounded_exponential(advantages):
    given = torch.tensor(advantages, requires_grad=True)
    weight = LF.imitation_weight(given)
    expected = [min(math.exp(each), 20.0) for each in given.tolist()]
    assert weight.tolist() == pytest.approx(expected, rel=1e-5)
    assert not weight.requires_grad
    assert LF.imitation_weight(torch.tensor([1e9, -1e9])).tolist() == [20.0, 0.0]  # what overflows


@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 1000))
def test_imitation_loss_is_that_of_a_loop(rows, width, seed):
    draw = torch.Generator().manual_seed(seed)
    theta, taken = torch.randn(2, rows, width, generator=draw)
    weight = torch.rand(rows, generator=draw)
    squares = [sum(float(theta[i, k] - taken[i, k]) ** 2 for k in range(width)) for i in range(rows)]
    total = sum(float(w) * square / 2 for w, square in zip(weight, squares, strict=True))
    assert float(LF.imitation_loss(theta, taken, weight)) == pytest.approx(total / rows, rel=1e-4, abs=1e-6)
