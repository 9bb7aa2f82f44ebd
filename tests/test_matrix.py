"""The promise matrix (docs/reliability_matrix.md): every row in one process, some on two; LAW_FAULTS=long runs all."""

import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch

from hostile import LONG, long
from matrix import CELLS, SAME, measure
from matrix_run import main

MODES = ("search", "apply")
SEARCHED = {"1 reference", "2 reference", "2 rewards"}
BOTH = {"2 weights of one", "5 belongings", "5 belongings resumed"}
SLOW = ("compiled", "compiled_loss")
#: What processes share matters most in these.
TWO_PROCESSES = tuple(CELLS) if LONG else ("plateau", "stream", "own_sampler", "shared_norm")


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
def on_two_processes(tmp_path_factory):
    launched = {}

    def run(start, *names):
        if (start, *names) not in launched:
            out = tmp_path_factory.mktemp("matrix") / "found"
            if start == "spawn":
                with mock.patch.dict(os.environ):  # Lightning leaves its port there
                    main(start, str(out), *names)
            else:
                env = {k: v for k, v in os.environ.items() if not k.startswith(("PL_", "PYTEST", "COV_", "LOCAL_RANK"))}
                command = [
                    sys.executable,
                    str(Path(__file__).parent / "helpers" / "matrix_run.py"),
                    start,
                    str(out),
                    *names,
                ]
                done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=1200, check=False)
                assert done.returncode == 0, done.stderr[-3000:]
            launched[start, *names] = [torch.load(f"{out}.{rank}", weights_only=True) for rank in (0, 1)]
        return launched[start, *names]

    return run


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", TWO_PROCESSES)
@pytest.mark.parametrize("start", ["spawn", pytest.param("popen", marks=long)])
def test_two_processes(start, name, mode, on_two_processes):
    for found in on_two_processes(start, *TWO_PROCESSES):
        assert_kept(found[name, mode], name, mode)


def test_every_sample_is_counted_once_whatever_shares_the_data_out(on_two_processes):
    first, second = on_two_processes("popen")
    counts = {name: value for name, value in first.items() if name.startswith("count")}
    assert len(counts) == 7
    for name, (found, expected) in counts.items():
        assert found == pytest.approx(expected, abs=1e-9), name
        assert second[name] == first[name]


def test_processes_take_one_theta(on_two_processes):
    first, second = on_two_processes("popen")
    assert first["theta"] == second["theta"]
    assert any(first["theta"][-1])
    assert all(torch.equal(a, b) for a, b in zip(first["parameters"], second["parameters"], strict=True))


def test_fsdp_applies_a_strategy_and_refuses_to_search(on_two_processes):
    for found in on_two_processes("popen"):
        assert found["sharded ones"] == SAME
        assert found["sharded weights"].startswith("differs")
        assert "which ModelParallelStrategy does not allow" in found["sharded search"]


@pytest.mark.parametrize("buffers", ["kept", "used"])
def test_processes_may_have_buffers_of_their_own(buffers, on_two_processes):
    for found in on_two_processes("popen"):
        assert found[f"{buffers} buffers"] == SAME
        assert found[f"{buffers} rewards"] == [0.0] * 5
