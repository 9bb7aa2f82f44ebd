import math
import re

import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from law_lightning import Samples, TrainingPhase
from law_lightning import functional as LF
from law_lightning.weighting import LAWWeighting
from law_lightning.weighting.base import checked_weights

PHASE = TrainingPhase(0, 20, 1.0, 0.0)


def make_samples(valid=None, count=6):
    draw = torch.Generator().manual_seed(2)
    return Samples(
        torch.rand(count, generator=draw),
        torch.randn(count, 3, generator=draw),
        torch.randint(3, (count,), generator=draw),
        valid=valid,
    )


def law_weighting(theta=None, **options):
    weighting = LAWWeighting(**options)
    weighting.theta = None if theta is None else torch.tensor(theta)
    return weighting


def test_every_sample_weighs_one_in_the_warmup_and_for_a_theta_of_zero():
    assert LAWWeighting().features == LF.FEATURES  # the paper's
    assert LAWWeighting()(make_samples(), PHASE) is None
    assert law_weighting([0.0] * 5)(make_samples(), PHASE).tolist() == [1.0] * 6


@pytest.mark.parametrize("renormalize", [False, True])
@pytest.mark.parametrize("features", [("loss",), ("label", "loss")])
def test_weights_are_those_of_the_named_features(features, renormalize):
    samples, theta = make_samples(), [*torch.linspace(-1, 1, len(features)).tolist(), 0.3]
    weights = law_weighting(theta, features=features, renormalize=renormalize)(samples, PHASE)
    f = LF.sample_features(samples.loss, samples.logits, samples.target, features)
    expected = LF.sample_weights(f, torch.tensor(theta))
    torch.testing.assert_close(weights, expected / expected.mean() if renormalize else expected)


def test_without_features_b_alone_weighs():
    """A sample without a label has none, nor has a batch of one."""
    weighting, valid = law_weighting([1.0, 2.0, -1.0, 0.5, -0.4]), torch.tensor([True, True, False, True, True, True])
    weights = weighting(make_samples(valid), PHASE)
    assert weights[2].item() == pytest.approx(1 + math.tanh(-0.4))
    assert not torch.equal(weights[valid], weighting(make_samples(), PHASE)[valid])
    assert weighting(make_samples(count=1), PHASE).item() == pytest.approx(1 + math.tanh(-0.4))


def test_weights_carry_no_gradient_and_theta_moves_to_the_samples_device():
    weighting, samples = law_weighting([0.0, 0.0], features=("loss",)), make_samples()
    weighting.theta.requires_grad_()
    assert not weighting(samples, PHASE).requires_grad
    elsewhere = Samples(*(tensor.to("meta") for tensor in (samples.loss, samples.logits, samples.target)))
    assert weighting(elsewhere, PHASE).device.type == weighting.theta.device.type == "meta"


# -- any function ----------------------------------------------------------------------------------------------


def test_any_function_is_a_weighting_whose_weights_are_constants():
    samples, two = make_samples(), torch.tensor(2.0, requires_grad=True)
    weights = checked_weights(lambda samples, phase: samples.loss * two + phase.stage, samples, PHASE)
    assert torch.equal(weights, samples.loss * 2)
    assert not weights.requires_grad
    assert checked_weights(lambda samples, phase: None, samples, PHASE) is None


@pytest.mark.parametrize("shape", [(), (5,), (6, 1), (1, 6)])
def test_weights_of_another_shape_are_named(shape):
    def mine(samples, phase):
        return torch.ones(shape)

    message = f"mine at .*returned weights of shape {re.escape(str(list(shape)))} for 6 samples; it must return .6.,"
    with pytest.raises(MisconfigurationException, match=message):
        checked_weights(mine, make_samples(), PHASE)
