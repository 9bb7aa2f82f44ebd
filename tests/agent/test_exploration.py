import math

import pytest
import torch

from law_lightning.agent import Exploration

ZERO = torch.zeros(3)


def make(**options):
    given = {"spread": torch.ones(3), "episode_noise": 1.0, "stage_noise": 0.5, "decay": 0.9, "seed": 7}
    return Exploration(**given | options)


def test_the_offset_stays_for_an_episode_and_the_noise_is_fresh():
    assert not torch.equal((exploration := make(episode_noise=0.0))(ZERO), exploration(ZERO))
    exploration = make(stage_noise=0.0)
    exploration.start_episode()
    first, again = exploration(ZERO), exploration(ZERO)
    assert torch.equal(first, again)
    assert first.abs().min() > 0
    exploration.start_episode()
    assert not torch.equal(exploration(ZERO), first)


@pytest.mark.parametrize(("noise", "other"), [("episode_noise", "stage_noise"), ("stage_noise", "episode_noise")])
def test_deviations_are_those_asked_for_and_decay(noise, other):
    """The weights of features vary less than b."""
    spread = torch.tensor([0.3, 0.3, 0.3, 0.3, 1.0])
    explorations = [make(spread=spread, decay=0.5, seed=seed, **{noise: 2.0, other: 0.0}) for seed in range(4_000)]
    for expected in (2.0, 1.0, 0.5, 0.25):
        for exploration in explorations:
            exploration.start_episode()
        drawn = torch.stack([exploration(torch.zeros(5)) for exploration in explorations])
        for column, deviation in zip(drawn.T, [0.3 * expected] * 4 + [expected], strict=True):
            assert column.std().item() == pytest.approx(deviation, rel=0.06)
            assert abs(column.mean().item()) < 4 * deviation / math.sqrt(4_000)
