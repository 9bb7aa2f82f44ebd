import math

import pytest
import torch

from law_lightning.agent import Exploration
from law_lightning.agent.networks import action_scale

ZERO = torch.zeros(3)


def make(**options):
    given = {"spread": torch.ones(3), "episode_noise": 1.0, "stage_noise": 0.5, "decay": 0.9, "seed": 7}
    return Exploration(**given | options)


def test_the_offset_stays_for_an_episode():
    exploration = make(stage_noise=0.0)
    exploration.start_episode()
    first, again = exploration(ZERO), exploration(ZERO)
    assert torch.equal(first, again)
    assert first.abs().min() > 0
    exploration.start_episode()
    assert not torch.equal(exploration(ZERO), first)


def test_the_noise_is_fresh_at_every_stage():
    exploration = make(episode_noise=0.0)
    exploration.start_episode()
    assert not torch.equal(exploration(ZERO), exploration(ZERO))


def test_theta_is_moved_not_replaced():
    theta, a, b = torch.tensor([1.0, -2.0, 3.0]), make(), make()
    a.start_episode()
    b.start_episode()
    torch.testing.assert_close(a(theta) - theta, b(ZERO))
    assert theta.tolist() == [1.0, -2.0, 3.0]


def test_there_is_no_offset_before_the_first_episode():
    assert make(stage_noise=0.0)(ZERO).tolist() == [0.0] * 3


def test_without_noise_theta_stays():
    exploration = make(episode_noise=0.0, stage_noise=0.0)
    exploration.start_episode()
    assert exploration(torch.ones(3)).tolist() == [1.0] * 3


@pytest.mark.parametrize(("noise", "other"), [("episode_noise", "stage_noise"), ("stage_noise", "episode_noise")])
def test_deviations_are_those_asked_for_and_decay(noise, other):
    """The weights of features vary less than b."""
    spread = action_scale(5, 0.3)
    explorations = [make(spread=spread, decay=0.5, seed=seed, **{noise: 2.0, other: 0.0}) for seed in range(4_000)]
    for expected in (2.0, 1.0, 0.5, 0.25):
        for exploration in explorations:
            exploration.start_episode()
        drawn = torch.stack([exploration(torch.zeros(5)) for exploration in explorations])
        for column, deviation in zip(drawn.T, [0.3 * expected] * 4 + [expected], strict=True):
            assert column.std().item() == pytest.approx(deviation, rel=0.06)
            assert abs(column.mean().item()) < 4 * deviation / math.sqrt(4_000)


def test_decay_is_by_episodes():
    exploration = make()
    for episode in range(4):
        exploration.start_episode()
        assert exploration.scale == pytest.approx(0.9**episode)
        exploration(ZERO)
    assert exploration.episode == 4


def test_seeds_repeat_and_differ():
    drawn = []
    for seed in (1, 1, 2):
        exploration = make(seed=seed)
        exploration.start_episode()
        drawn.append(exploration(ZERO).tolist())
    assert drawn[0] == drawn[1] != drawn[2]


def test_the_state_goes_on_exactly():
    exploration = make()
    exploration.start_episode()
    exploration.start_episode()
    exploration(ZERO)
    state = exploration.state_dict()
    later = []
    for _ in range(2):
        resumed = make(seed=99)
        resumed.load_state_dict(state)
        drawn = [resumed(ZERO).tolist(), resumed(ZERO).tolist()]
        resumed.start_episode()
        later.append([*drawn, resumed(ZERO).tolist(), resumed.scale, resumed.episode])
    assert later[0] == later[1]
    expected = [exploration(ZERO).tolist(), exploration(ZERO).tolist()]
    exploration.start_episode()
    assert later[0] == [*expected, exploration(ZERO).tolist(), exploration.scale, exploration.episode]


def test_the_global_random_state_is_untouched():
    before = torch.get_rng_state()
    exploration = make()
    exploration.start_episode()
    exploration(ZERO)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("options", [{"episode_noise": -1.0}, {"stage_noise": -0.1}, {"decay": 0.0}, {"decay": 1.1}])
def test_impossible_noise_is_named(options):
    with pytest.raises(
        ValueError, match=rf"Noise must be at least 0 and its decay in \(0, 1\].*{next(iter(options.values()))}"
    ):
        make(**options)
