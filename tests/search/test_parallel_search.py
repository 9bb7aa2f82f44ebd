"""Several workers: promise 4, and what happens when one dies, the program is killed or the disk is full."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

import search_parts
from hostile import long
from law_lightning.search import loop
from law_lightning.search.episodes import learning_seed
from law_lightning.search.processes import in_processes
from law_lightning.search.workers import WorkerLostError, check_workers
from search_parts import TRAINER, digest, everything, make_data, make_module, new_search, parts_of, search_and_watch
from test_promises import assert_same


def silent(event, content):
    pass


def gathered(group, report):
    from torch import distributed

    mine = {"rank": group.rank, "longer": torch.full((1000 * group.rank,), 1.5, dtype=torch.float64)}
    return {"gathered": group.gather(mine), "alike": group.gather(distributed.is_initialized())}


def test_what_workers_share():
    found = in_processes(2, gathered, (), silent)
    assert [each["rank"] for each in found["gathered"]] == [0, 1]
    assert [each["longer"].tolist() for each in found["gathered"]] == [[], [1.5] * 1000]
    assert found["alike"] == [False, False], "torchmetrics would average over the episodes of different workers"


@pytest.mark.parametrize(
    ("options", "lengths"),
    [
        ({"episodes": 4}, [12, 12]),
        ({"episodes": 4, "members": 1, "seed_pool": 2}, [12, 12]),
        # One worker's trainings stop early; the other does not wait for it.
        ({"trainer_kwargs": TRAINER | {"callbacks": [search_parts.StopEarly()]}}, [10, 10]),
    ],
)
def test_workers_agree_after_every_update(options, lengths):
    """Promise 4, bit for bit."""
    search = new_search(workers=2, **({"epochs": 3} | options))
    found = in_processes(2, search_and_watch, parts_of(search), silent)
    assert found["lengths"] == lengths
    first, second = found["seen"]
    assert len(first) == 2 * 3
    assert first == second
    assert len(set(first)) == len(first)


def search_on_other_machines(group, report, *parts):
    loop.digest = lambda state: f"of worker {group.rank}"
    return search_and_watch(group, report, *parts)


def test_machines_that_compute_differently_are_named():
    search = new_search(episodes=2, workers=2)
    with pytest.raises(RuntimeError, match=r"strategies of the workers \[1\] are not that of the first"):
        in_processes(2, search_on_other_machines, parts_of(search), silent)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What two workers find without a stop, and the file of its metrics."""
    folder = tmp_path_factory.mktemp("whole")
    search = new_search(folder / "run", workers=2, logger=CSVLogger(folder / "logs", name="", version=""))
    return search.run(make_module, make_data), folder / "logs/metrics.csv"


def test_what_two_workers_return(whole):
    first, metrics = whole
    assert [record["episode"] for record in first.history] == [0, 1, 2, 3]
    assert [record["seed"] for record in first.history] == [learning_seed(0, episode, 0) for episode in range(4)]
    assert len(first.buffer) == 4 * 3
    assert metrics.read_text().count("\n") > 4 * 4
    # The first episode is that of a single worker: exploration depends on its number alone.
    alone = new_search(episodes=1).run(make_module, make_data)
    assert torch.equal(first.buffer.transitions().theta[0], alone.buffer.transitions().theta[0])


@pytest.mark.parametrize("how", ["killed", "raises", "full disk"])
def test_a_search_goes_on_after(tmp_path, how, whole):
    """Promise 3, where a worker dies, its code raises, or nothing can be written."""
    # trainings of worker 1: evaluation twice (with and without weights), an episode, an evaluation, then this
    data = partial(search_parts.DyingData, 1, 5, how)
    error, message = WorkerLostError, r"Worker 1 of the search died by SIGKILL.*same command goes on"
    if how == "raises":
        error, message = ZeroDivisionError, "the data are gone"
    if how == "full disk":
        data, error = make_data, OSError
        message = r"search\.pt could not be written: No space left.*previous file is unchanged"
        new_search(tmp_path, episodes=2, workers=2).run(make_module, make_data)
        (tmp_path / "search.pt.partial").symlink_to("/dev/full")
    with pytest.raises(error, match=message):
        new_search(tmp_path, workers=2).run(make_module, data)
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 1 + (4 if how == "full disk" else 2)
    assert_same(everything(new_search(tmp_path, workers=2).run(make_module, make_data)), everything(whole[0]))


def test_another_number_of_workers_goes_on(tmp_path):
    for episodes, workers in ((3, 1), (6, 2), (8, 1)):
        result = new_search(tmp_path, episodes=episodes, workers=workers).run(make_module, make_data)
        # a round is run whole
        assert [record["episode"] for record in result.history] == list(range(episodes + (workers == 2)))
    assert torch.equal(result.buffer.transitions().stage, torch.arange(1, 4).repeat(8))


def start(folder, workers, episodes=6, pool=0, environment=(), launcher=()):
    arguments = [str(folder), str(episodes), str(workers), str(pool)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | dict(environment)
    return subprocess.Popen(
        [sys.executable, *launcher, search_parts.__file__, *arguments],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # a job in the background ignores Ctrl-C
    )  # fmt: skip


def ended(process, folder):
    assert process.wait(200) == 0, process.stdout.read()
    return json.loads((folder / "digest.json").read_text())


def wait_for_rows(folder, rows, process):
    file = folder / "metrics.csv"
    while not file.is_file() or len(file.read_text().splitlines()) < rows + 1:
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.02)


def gone(group):
    """Whether all processes of a session end."""
    for _ in range(200):
        listed = subprocess.run(["ps", "-o", "pid=,stat=", "-s", str(group)], capture_output=True, text=True).stdout
        if all("Z" in line for line in listed.splitlines()):
            return True
        time.sleep(0.05)
    return False


def assert_it_ends_the_same_when_killed(folder, workers, pool, waits, expected):
    for wait in waits:
        process = start(folder, workers, 4, pool)
        wait_for_rows(folder, 2, process)
        time.sleep(wait)
        process.kill()  # the one the user started; its workers must not go on
        process.wait()
        assert gone(process.pid)
    assert ended(start(folder, workers, 4, pool), folder) == expected


def test_killed_at_some_moment_it_ends_the_same(tmp_path):
    whole = start(tmp_path / "whole", 1, 4, pool=2)
    assert_it_ends_the_same_when_killed(tmp_path / "killed", 1, 2, (0.0, 0.15), ended(whole, tmp_path / "whole"))


def test_two_workers_killed_at_some_moment_end_the_same(tmp_path, whole):
    assert_it_ends_the_same_when_killed(tmp_path, 2, 0, (0.1,), digest(everything(whole[0])))


def test_ctrl_c_stops_all_workers(tmp_path):
    process = start(tmp_path, 2, episodes=500)
    wait_for_rows(tmp_path, 2, process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
    output = process.communicate(timeout=30)[0]
    assert process.returncode != 0
    assert "the same command goes on" in output
    assert output.count("Traceback") <= 1, output
    assert gone(process.pid)


def test_torchrun_starts_the_workers(tmp_path, whole):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    process = start(tmp_path, 2, episodes=4, launcher=launcher)
    assert ended(process, tmp_path) == digest(everything(whole[0]))


@long
def test_slurm_starts_the_workers(tmp_path, whole):
    job = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "search", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2",
           "SLURM_NNODES": "1", "SLURM_NODEID": "0", "SLURM_NODELIST": "localhost"}  # fmt: skip
    tasks = [start(tmp_path, 2, 4, environment=job | {"SLURM_PROCID": r, "SLURM_LOCALID": r}) for r in "10"]
    assert tasks[0].wait(200) == 0, tasks[0].stdout.read()
    assert ended(tasks[1], tmp_path) == digest(everything(whole[0]))


def test_what_workers_cannot_be_given(monkeypatch):
    with pytest.raises(ValueError, match=r"3 workers .*seed_pool=2 has too few seeds"):
        new_search(workers=3, seed_pool=2)
    with pytest.raises(MisconfigurationException, match=r"make_module cannot be sent"):
        new_search(workers=2).run(lambda: make_module(), make_data)
    main = SimpleNamespace(__spec__=None, made_here=make_module)  # a notebook's
    monkeypatch.setitem(sys.modules, "__main__", main)
    for name, value in {"__module__": "__main__", "__qualname__": "made_here"}.items():
        monkeypatch.setattr(make_module, name, value)
    for given in (make_module, partial(make_module)):
        with pytest.raises(MisconfigurationException, match=r"make_module needs from a notebook.*workers=1"):
            new_search(workers=2).run(given, make_data)
    monkeypatch.setattr(main, "__file__", "<stdin>", raising=False)
    with pytest.raises(MisconfigurationException, match=r"trainer_kwargs needs from a notebook"):
        new_search(workers=2).run(search_parts.make_data, make_data)
    monkeypatch.undo()
    for name, value in {"RANK": "0", "GROUP_RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "4",
                        "LOCAL_WORLD_SIZE": "4", "TORCHELASTIC_RUN_ID": "x"}.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    check_workers(4)
    with pytest.raises(MisconfigurationException, match=r"started 4 processes.*workers=2"):
        check_workers(2)


def test_workers_that_end_in_the_users_script_are_named(tmp_path, monkeypatch):
    """Each runs it first; more than a pipe holds is to be sent to them."""
    script = tmp_path / "script.py"
    script.write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\nraise SystemExit(3)")
    monkeypatch.setitem(sys.modules, "__main__", SimpleNamespace(__spec__=None, __file__=str(script)))
    with pytest.raises(WorkerLostError, match=r"died with exit code \d .* under if __name__ =="):
        in_processes(2, gathered, (bytes(10**6),), silent)
    assert (tmp_path / "ran").is_file()


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files in /proc")
def test_what_is_sent_to_workers_opens_no_files():
    """A process may have 1,024 of them on most machines, and torch opens one for every tensor that it sends."""
    search = new_search(members=16, episodes=1)
    search.run(make_module, make_data)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    ForkingPickler.dumps(parts_of(search))
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
