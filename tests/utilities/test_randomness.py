import random

import numpy as np
import pytest
import torch

from law_lightning.utilities.files import load_state, save_state
from law_lightning.utilities.randomness import (
    check_portable_states,
    portable_states,
    random_states,
    replaying,
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


def test_draws_differ_unless_put_back():
    assert draw() != draw()


def test_states_taken_are_states_put_back():
    states = random_states()
    first = draw()
    draw()
    set_random_states(states)
    assert draw() == first


def test_states_can_be_put_back_twice():
    states = random_states()
    first = draw()
    for _ in range(2):
        set_random_states(states)
        assert draw() == first


def test_replaying_repeats_and_then_goes_on():
    states = random_states()
    first = draw()
    before = random_states()
    following = draw()
    set_random_states(before)
    with replaying(states):
        assert draw() == first
    assert draw() == following


def test_replaying_puts_back_after_an_error():
    states = random_states()
    draw()
    before = random_states()
    following = draw()
    set_random_states(before)

    def fail():
        with replaying(states):
            draw()
            draw()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert draw() == following


def test_portable_states_survive_a_file(tmp_path):
    save_state(tmp_path / "random.pt", "random", portable_states())
    first = draw()
    set_portable_states(load_state(tmp_path / "random.pt", "random"))
    assert draw() == first


def test_states_of_earlier_files_are_put_back():
    """Their state of Python is a list of its words."""
    states = portable_states()
    version, words, gauss = states["python"]
    first = draw()
    set_portable_states(states | {"python": [version, words.tolist(), gauss]})
    assert draw() == first


@pytest.mark.parametrize("words", [torch.zeros(1).expand(2**40), torch.zeros(624), [], torch.tensor(0)])
def test_a_state_of_python_that_is_none_is_refused_at_once(words):
    states = portable_states()
    check_portable_states(states)
    states["python"][1] = words
    with pytest.raises(ValueError, match="random state of Python is not one"):
        check_portable_states(states)


def test_portable_states_hold_tensors_and_plain_python_alone():
    def check(value):
        if isinstance(value, dict):
            value = list(value.values())
        if isinstance(value, (list, tuple)):
            for each in value:
                check(each)
        else:
            assert type(value) in (torch.Tensor, int, float, str, bool, type(None))

    check(portable_states())


def test_taking_states_draws_nothing():
    states = random_states()
    first = draw()
    set_random_states(states)
    random_states()
    portable_states()
    assert draw() == first


@pytest.mark.parametrize("devices", [0, 1, 2, 3])
def test_states_of_two_cuda_devices_load_where_there_are_others(monkeypatch, devices):
    put_back, states = [], portable_states() | {"torch.cuda": [torch.zeros(16, dtype=torch.uint8)] * 2}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", put_back.append)
    set_portable_states(states)
    assert [len(each) for each in put_back] == [[], [1], [2], [2]][devices]


def test_replaying_the_present_leaves_no_trace():
    before = random_states()
    first = draw()
    set_random_states(before)
    with replaying():
        assert draw() == first
    assert draw() == first


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
