"""After a fit or a search, however it ended, nothing is left: no process, thread, file or hook of the package's."""

import functools
import gc
import multiprocessing.forkserver
import os
import signal
import tempfile
import threading
import time
from pathlib import Path

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from test_stops import Stop, UsersError
from torch.utils.data import DataLoader

from hostile import LONG
from methods import METHODS
from search_parts import DyingData, make_data, make_module, new_search
from zoo import AdamCosine, loaders, make_trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files in /proc"),
]

ENDS = {"success": None, "error": UsersError, "ctrl-c": KeyboardInterrupt}
MOMENTS = ["forward", "on_before_optimizer_step", "on_train_batch_end", "on_validation_batch_end"]


def present(folder):
    """Whatever is global to the process and could be left."""
    gc.collect()
    hooks = [vars(torch.nn.modules.module)[name] for name in vars(torch.nn.modules.module) if "_global_" in name]
    return {
        "children": len(multiprocessing.active_children()),
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "open files": len(os.listdir("/proc/self/fd")),  # noqa: PTH208
        "folder": sorted(folder.rglob("*")),
        "hooks": [len(kind) for kind in hooks if hasattr(kind, "__len__")],
        "losses": [F.cross_entropy, F.nll_loss],
        "modes": torch.overrides._get_current_function_mode_stack(),
        "gradients": torch.is_grad_enabled(),
    }


def assert_settled(folder, before):
    """Nothing is left once threads and processes that are about to end have ended."""
    for _ in range(60):
        if present(folder) == before:
            break
        time.sleep(0.5)
    assert present(folder) == before


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where files could be left: both the working folder and that for temporary files."""
    for server in (multiprocessing.resource_tracker, multiprocessing.forkserver):  # end with this process
        server.ensure_running()
    torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # libuv keeps a pipe
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    handler = signal.getsignal(signal.SIGINT)
    yield tmp_path
    signal.signal(signal.SIGINT, handler)  # the Trainer ignores Ctrl-C after the first


def run(callbacks, end, moment, workers=0):
    """Fit until such an end; the module."""

    def act():
        raise ENDS[end]

    L.seed_everything(3, verbose=False)
    module, data = AdamCosine(), [DataLoader(each.dataset, 16, num_workers=workers) for each in loaders()]
    trainer = make_trainer([*callbacks, Stop(moment if ENDS[end] else "", 9, act)])
    if end == "success":
        trainer.fit(module, *data)
    else:
        with pytest.raises(SystemExit if end == "ctrl-c" else UsersError):
            trainer.fit(module, *data)
    return module


@functools.cache
def plain(end, moment, workers):
    """What plain training leaves on a module that ends so."""
    return of_the_module(run([], end, moment, workers))


def of_the_module(module):
    """Attributes, and the numbers of hooks on its layers and parameters."""
    layers = [vars(layer) for layer in module.modules()]
    tensors = [(each._backward_hooks, each._post_accumulate_grad_hooks) for each in module.parameters()]
    return (
        [set(each) for each in layers],
        [len(each[name]) for each in layers for name in each if "_hooks" in name],
        tensors,
    )


@pytest.mark.one_in(2)
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("name", METHODS)
def test_a_fit_leaves_nothing(name, end, folder):
    turn = list(METHODS).index(name) + list(ENDS).index(end)
    # Loaders with processes of their own stop in the course of an epoch.
    workers, moments = int(name in ("law_search", "l2rw", "co_teaching")), MOMENTS if ENDS[end] else [""]
    for moment in moments if LONG else [moments[turn % len(moments)]]:
        expected, before = plain(end, moment, workers), present(folder)
        assert of_the_module(run([METHODS[name]()], end, moment, workers)) == expected
        assert_settled(folder, before)


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("seed_pool", [0, 2])
def test_a_search_leaves_nothing(end, seed_pool, folder):
    made = []

    def failing_module():
        made.append(make_module())
        if len(made) == 3 and ENDS[end]:
            raise ENDS[end]
        return made[-1]

    before = present(folder)
    try:
        new_search(seed_pool=seed_pool).run(failing_module, make_data)
    except (UsersError, KeyboardInterrupt) as error:
        assert type(error) is ENDS[end]  # noqa: PT017
    assert len(made) >= 3
    assert_settled(folder, before)


@pytest.mark.parametrize("fails", [False, True])
def test_a_search_in_several_processes_leaves_nothing(fails, folder):
    before = present(folder)
    data = functools.partial(DyingData, 1, 1 if fails else -1, "raises")  # in the second worker's first training
    search = new_search(workers=2)
    if fails:
        with pytest.raises(ZeroDivisionError, match="the data are gone"):
            search.run(make_module, data)
    else:
        assert len(search.run(make_module, data).history) == 4
    assert_settled(folder, before)
