import pickle
import random

import numpy as np
import pytest
import torch

from law_lightning.utilities.files import load_state, save_state
from law_lightning.utilities.randomness import (
    derived_seed,
    portable_states,
    random_states,
    replaying,
    reseed,
    set_portable_states,
    set_random_states,
)


def draw():
    """A number from every global source; both Gaussian ones keep a spare inside."""
    return (
        torch.rand(3).tolist(),
        torch.randn(1).item(),
        np.random.rand(2).tolist(),  # noqa: NPY002 - the global state is what is meant
        np.random.randn(),  # noqa: NPY002
        random.random(),
        random.gauss(0, 1),
    )


@pytest.fixture(autouse=True)
def somewhere():
    torch.manual_seed(1)
    np.random.seed(2)  # noqa: NPY002
    random.seed(3)
    draw()


@pytest.mark.parametrize("present", [False, True])
def test_replaying_repeats_and_then_goes_on(present):
    states = random_states()
    first = draw()
    assert draw() != first
    if present:
        set_random_states(states)
    before = random_states()
    following = draw()
    set_random_states(before)
    with pytest.raises(ZeroDivisionError), replaying(None if present else states):  # noqa: PT012
        random_states()  # taking them draws nothing
        assert draw() == first
        draw()[1] / 0
    assert draw() == following


# 312 doubles are 624 words: the next words come from the same position of new ones.
@pytest.mark.parametrize("draws", [0, 1, 312])
@pytest.mark.parametrize("spare", [0, 1])
def test_numpys_state_is_put_back_wherever_it_differs(draws, spare):
    """Setting it is slow, so what is known to be the same is left alone; a spare Gaussian counts as well."""
    states = random_states()
    first = draw()
    set_random_states(states)
    np.random.rand(draws)  # noqa: NPY002
    np.random.standard_normal(spare)  # noqa: NPY002
    set_random_states(states, now=random_states())
    assert draw() == first


def test_a_seed_depends_on_all_and_on_their_order():
    seeds = [(0, 1), (1, 0), (1, 1), (1, 2), (-1, 1), (1, 2**40)]
    assert len({derived_seed(*each) for each in seeds}) == len(seeds)


def test_a_generator_can_be_pickled_and_reseeded():
    before, own = torch.get_rng_state(), torch.Generator().manual_seed(0)
    torch.rand(2, generator=own)
    copy = pickle.loads(pickle.dumps(own))
    assert torch.equal(torch.rand(3, generator=own), torch.rand(3, generator=copy))
    reseed(own, 1, 2)
    reseed(copy, 1, 3)
    assert not torch.equal(own.get_state(), copy.get_state())
    reseed(copy, 1, 2)
    assert torch.equal(own.get_state(), copy.get_state())
    assert torch.equal(torch.get_rng_state(), before)


def test_portable_states_survive_a_file(tmp_path):
    save_state(tmp_path / "random.pt", "random", portable_states())  # read with weights_only=True
    first = draw()
    set_portable_states(load_state(tmp_path / "random.pt", "random"))
    assert draw() == first
