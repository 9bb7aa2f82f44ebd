import math

import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from law_lightning import Samples, TrainingPhase
from law_lightning import functional as LF
from law_lightning.weighting import LAWWeighting, checked_weights

PHASE = TrainingPhase(0, 20, 1.0, 0.0)


def make_samples(valid=None, count=6):
    draw = torch.Generator().manual_seed(2)
    return Samples(
        torch.rand(count, generator=draw),
        torch.randn(count, 3, generator=draw),
        torch.randint(3, (count,), generator=draw),
        valid=valid,
    )


def test_every_sample_weighs_one_in_the_warmup():
    assert LAWWeighting()(make_samples(), PHASE) is None


def test_a_theta_of_zero_weighs_exactly_one():
    weighting = LAWWeighting()
    weighting.theta = torch.zeros(5)
    assert weighting(make_samples(), PHASE).tolist() == [1.0] * 6


@pytest.mark.parametrize("features", [("loss",), ("label", "loss")])
def test_weights_are_those_of_the_named_features(features):
    weighting, samples = LAWWeighting(features), make_samples()
    theta = [*torch.linspace(-1, 1, len(features)).tolist(), 0.3]
    weighting.theta = torch.tensor(theta)
    columns = {"loss": samples.loss.tolist(), "label": samples.target.tolist()}
    standard = []
    for name in features:
        mean = sum(columns[name]) / 6
        deviation = math.sqrt(sum((x - mean) ** 2 for x in columns[name]) / 6)
        standard.append([(x - mean) / deviation for x in columns[name]])
    for i, weight in enumerate(weighting(samples, PHASE).tolist()):
        inner = sum(t * column[i] for t, column in zip(theta, standard, strict=False)) + 0.3
        assert weight == pytest.approx(1 + math.tanh(inner), rel=1e-5)


def test_a_sample_without_a_label_has_the_weight_of_b_alone():
    weighting = LAWWeighting()
    weighting.theta = torch.tensor([1.0, 2.0, -1.0, 0.5, -0.4])
    valid = torch.tensor([True, True, False, True, True, True])
    weights = weighting(make_samples(valid), PHASE)
    assert weights[2].item() == pytest.approx(1 + math.tanh(-0.4))
    assert not torch.equal(weights[valid], weighting(make_samples(), PHASE)[valid])


def test_a_batch_of_one_has_the_weight_of_b_alone():
    weighting = LAWWeighting()
    weighting.theta = torch.tensor([1.0, 2.0, -1.0, 0.5, 0.7])
    assert weighting(make_samples(count=1), PHASE).item() == pytest.approx(1 + math.tanh(0.7))


def test_weights_carry_no_gradient():
    weighting = LAWWeighting()
    weighting.theta = torch.ones(5, requires_grad=True)
    assert not weighting(make_samples(), PHASE).requires_grad


def test_the_papers_features_are_the_default():
    assert LAWWeighting().features == LF.FEATURES


def test_theta_moves_to_the_samples_device():
    weighting, samples = LAWWeighting(("loss",)), make_samples()
    weighting.theta = torch.zeros(2)
    elsewhere = Samples(*(tensor.to("meta") for tensor in (samples.loss, samples.logits, samples.target)))
    assert weighting(elsewhere, PHASE).device.type == "meta"
    assert weighting.theta.device.type == "meta"


# -- the seam --------------------------------------------------------------------------------------------------


def test_any_function_is_a_weighting():
    samples, seen = make_samples(), []

    def weigh(samples, phase):
        seen.append((samples, phase))
        return samples.loss * 2

    weights = checked_weights(weigh, samples, PHASE)
    assert torch.equal(weights, samples.loss * 2)
    assert seen == [(samples, PHASE)]


def test_no_weights_stay_none():
    assert checked_weights(lambda samples, phase: None, make_samples(), PHASE) is None


def test_weights_are_treated_as_constants():
    weights = checked_weights(lambda s, p: torch.ones(6, requires_grad=True) * 2, make_samples(), PHASE)
    assert not weights.requires_grad


@pytest.mark.parametrize("shape", [(), (5,), (6, 1), (1, 6)])
def test_weights_of_another_shape_are_named(shape):
    class Mine:
        def __repr__(self):
            return "Mine()"

        def __call__(self, samples, phase):
            return torch.ones(shape)

    with pytest.raises(MisconfigurationException) as error:
        checked_weights(Mine(), make_samples(), PHASE)
    assert f"The weighting Mine() returned weights of shape {list(shape)} for 6 samples" in str(error.value)
    assert "[6]" in str(error.value)
