"""Promises 1 to 3 on two processes, with all that they leave; test_matrix.py asks for less of more modules."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hostile import LONG, long
from test_promises import assert_same
from zoo import assert_identical, differ

MODES = ("plain", "search", "zero", "apply")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """What came of a mode, by process: started once, together with all others that are started alike."""
    folders = {}

    def run(mode, strategy="ddp", checkpoint=()):
        key = strategy, *checkpoint
        if key not in folders:
            folder = tmp_path_factory.mktemp("ddp")
            modes = MODES if key == ("ddp",) else (mode,)
            env = {k: v for k, v in os.environ.items() if not k.startswith(("PL_", "PYTEST", "COV_", "LOCAL_RANK"))}
            script = str(Path(__file__).parent / "helpers" / "ddp_run.py")
            command = [sys.executable, script, ",".join(modes), str(folder), strategy, *map(str, checkpoint)]
            done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)
            assert done.returncode == 0, done.stderr[-3000:]
            folders[key] = folder
        return [torch.load(file, weights_only=True) for file in sorted(folders[key].glob(f"{mode}.*"))]

    run.folders = folders
    return run


def test_the_reference_is_plain_training_on_two_processes(run):
    plain, (first, second) = run("plain"), run("search")
    assert_identical(first["reference"], plain[0]["module"])
    assert differ(first["module"], plain[0]["module"])
    for key in ("history", "agent", "buffer"):  # both processes took the same theta from the same numbers
        assert_same(first[key], second[key])
    # BatchNorm's running statistics belong to each process; parameters are shared.
    for name, value in first["module"].items():
        if "running" not in name:
            assert torch.equal(value, second["module"][name])


def test_the_accuracy_counts_every_sample_once(run):
    """70 validation samples on two processes; the padded ones would make it a fraction of more."""
    for record in run("search")[0]["history"]:
        for name in ("acc_target", "acc_reference"):
            assert record[name] * 70 == pytest.approx(round(record[name] * 70), abs=1e-6)


def test_weights_of_one_change_nothing_on_two_processes(run):
    plain, zero, apply = run("plain")[0], run("zero")[0], run("apply")[0]
    assert_identical(zero["module"], plain["module"])
    assert_identical(zero["reference"], plain["module"])
    assert [record["reward"] for record in zero["history"]] == [0.0] * 5
    assert_identical(apply["module"], plain["module"])


@long
def test_weights_of_one_change_nothing_in_spawned_processes(run):
    assert_identical(run("zero", "ddp_spawn")[0]["module"], run("plain")[0]["module"])


@pytest.mark.parametrize("step", [3, 6] if LONG else [6])
def test_a_stop_loses_nothing_on_two_processes(run, step):
    """Resumed from an epoch's end; every process has its own random states and BatchNorm."""
    whole = run("search")
    assert "running" in " ".join(whole[0]["module"])
    resumed = run("search", checkpoint=[next(run.folders["ddp",].glob(f"step={step}.ckpt"))])
    for rank in (0, 1):
        for key in ("history", "agent", "buffer"):
            assert_same(resumed[rank][key], whole[rank][key])
        for key in ("module", "reference"):
            for name, value in resumed[rank][key].items():
                # A checkpoint holds the first process's running statistics; plain Lightning resumes all with those.
                if rank == 0 or "running" not in name:
                    assert torch.equal(value, whole[rank][key][name]), (rank, key, name)
