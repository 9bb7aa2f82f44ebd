"""The gain that a search announces, and its interval over networks and validation samples."""

import numpy as np
import pytest
import torch

from law_lightning.functional import gain_interval
from law_lightning.search.gain import Gain

rng = np.random.default_rng(0)


def crossed(mean, networks, samples, both, shape=(8, 500)):
    """Gains with deviations of their own for networks, samples, and pairs of these."""
    parts = rng.normal(0, networks, (shape[0], 1)), rng.normal(0, samples, (1, shape[1])), rng.normal(0, both, shape)
    return torch.from_numpy(mean + sum(parts))


@pytest.mark.parametrize("deviations", [(0.03, 0.01, 0.1), (0.0, 0.4, 0.1), (0.02, 0.3, 0.3)])
def test_the_interval_is_as_wide_as_the_variances_say(deviations):
    """Owen (2007): the bootstrap's variance is that of the networks, that of the samples, and the rest's."""
    gains = crossed(0.02, *deviations, shape=(40, 500))
    mean, low, high = gain_interval(gains)
    assert mean == pytest.approx(float(gains.mean()))
    networks, samples = gains.mean(1), gains.mean(0)
    residual = gains - networks[:, None] - samples + gains.mean()
    both = float((residual**2).mean()) / gains.numel()
    variance = float(networks.var(correction=0)) / 40 + float(samples.var(correction=0)) / 500 + both
    assert high - low == pytest.approx(2 * 1.96 * variance**0.5, rel=0.06)


def test_the_interval_covers_the_true_mean_and_more_candidates_widen_it():
    rates = [Gain.of(crossed(0.02, 0.02, 0.3, 0.3, (8, 200)), candidates=1) for _ in range(24)]
    assert sum(gain.low <= 0.02 <= gain.high for gain in rates) in range(20, 25)
    gains = crossed(0.02, 0.02, 0.3, 0.3)
    widths = [gain.high - gain.low for gain in (Gain.of(gains, candidates) for candidates in (1, 2, 7))]
    assert widths == sorted(set(widths))


def test_what_is_said_of_a_gain():
    found = Gain(0.05, 0.01, 0.09, seeds=8, samples=500, candidates=7)
    assert str(found).startswith("+5.00 points of validation accuracy over plain training, 95% interval [+1.00, +9.00]")
    chance = Gain(0.02, -0.02, 0.06, seeds=8, samples=500, candidates=7)
    assert str(chance).startswith("No gain beyond chance: +2.00 points")
    # Half the width takes four times as many of both.
    assert str(chance).endswith("A gain of +2.00 points would show with about 32 seeds and 2000 validation samples")
    assert "about" not in str(Gain(-0.02, -0.04, 0.0, seeds=8, samples=500, candidates=1))
    nothing = Gain.of(torch.zeros(2, 3), candidates=1)
    assert (nothing.mean, nothing.low, nothing.high) == (0, 0, 0)
    assert "about" not in str(nothing)
