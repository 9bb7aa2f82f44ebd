"""The promise matrix (docs/reliability_matrix.md): every row in one process, some on two; LAW_FAULTS=long runs all."""

import functools

import pytest
import torch

from hostile import LONG
from matrix import CELLS, SAME, measure
from matrix_run import on_two_processes

MODES = ("search", "apply")
SEARCHED = {"1 reference", "2 reference", "2 rewards"}
BOTH = {"2 weights of one", "5 belongings", "5 belongings resumed"}
SLOW = ("compiled", "compiled_loss")
#: What processes share matters most in these.
TWO_PROCESSES = tuple(CELLS) if LONG else ("plateau", "kept", "stream", "own_sampler", "shared_norm")


def assert_kept(found, name, mode):
    resumes = set() if name == "plateau" else {"3 stop"}
    assert set(found) == BOTH | resumes | (SEARCHED if mode == "search" else set())
    assert {what: verdict for what, verdict in found.items() if verdict != SAME} == {}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", CELLS)
def test_one_process(name, mode, tmp_path):
    if name in SLOW and not LONG and mode == "apply":
        pytest.skip("compiles for seconds; the search compiles the same network")
    assert_kept(measure(name, tmp_path, mode), name, mode)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """What two processes found of some rows, or without names of what they share; launched once for each."""
    return functools.cache(lambda *names: on_two_processes(tmp_path_factory.mktemp("matrix") / "found", *names))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", TWO_PROCESSES)
def test_two_processes(name, mode, pair):
    for found in pair(*TWO_PROCESSES):
        assert_kept(found[name, mode], name, mode)


def test_every_sample_is_counted_once_whatever_shares_the_data_out(pair):
    first, second = pair()
    counts = {name: value for name, value in first.items() if name.startswith("count")}
    assert len(counts) == 7
    for name, (found, expected) in counts.items():
        assert found == pytest.approx(expected, abs=1e-9), name
        assert second[name] == first[name]


def test_processes_take_one_theta(pair):
    first, second = pair()
    assert first["theta"] == second["theta"]
    assert any(first["theta"][-1])
    assert all(torch.equal(a, b) for a, b in zip(first["parameters"], second["parameters"], strict=True))


def test_fsdp_applies_a_strategy(pair):
    for found in pair():
        assert found["sharded ones"] == SAME
        assert found["sharded weights"].startswith("differs")


@pytest.mark.parametrize("buffers", ["kept", "used"])
def test_processes_may_have_buffers_of_their_own(buffers, pair):
    for found in pair():
        assert found[f"{buffers} buffers"] == SAME
        assert found[f"{buffers} rewards"] == [0.0] * 5
