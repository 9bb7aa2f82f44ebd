"""After a fit or a search, however it ended, nothing is left: no process, thread, file or hook of the package's.

Each method is stopped at one of the moments by default; with ``LAW_FAULTS=long`` at all of them.
"""

import functools
import gc
import multiprocessing.resource_tracker
import os
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from itertools import product
from pathlib import Path

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from test_stops import Stop, UsersError
from torch.utils.data import DataLoader

from hostile import LONG, long
from law_lightning import StrategyAgent, StrategySearch
from methods import METHODS
from search_parts import TRAINER, DyingData, make_data, make_module
from zoo import AdamCosine, make_trainer
from zoo import make_data as zoo_data

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="looks at the process in /proc"),
]

ENDS = {"success": None, "error": UsersError, "ctrl-c": KeyboardInterrupt}
MOMENTS = ["forward", "on_before_optimizer_step", "on_train_batch_end", "on_validation_batch_end"]
LOSSES = ("cross_entropy", "nll_loss", "binary_cross_entropy_with_logits")


def children():
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, fields = stat.read_text().partition(")")
        except OSError:  # has ended meanwhile
            continue
        if int(fields.split()[1]) == os.getpid():
            found.append(name)
    return sorted(found)


def open_files():
    found = Counter()
    for link in Path("/proc/self/fd").iterdir():
        try:
            found[str(link.readlink())] += 1
        except OSError:  # that of this listing
            continue
    return {name: count for name, count in found.items() if not name.startswith("/proc")}


def hooks():
    """Whatever of torch's is global and can be changed."""
    module, optimizer = (sys.modules[name] for name in ("torch.nn.modules.module", "torch.optim.optimizer"))
    kinds = [vars(part)[name] for part in (module, optimizer) for name in vars(part) if "_global_" in name]
    return {
        "hooks": [len(kind) for kind in kinds if hasattr(kind, "__len__")],
        "losses": [getattr(F, name) for name in LOSSES],
        "modes": len(torch.overrides._get_current_function_mode_stack()),
        "dispatch": len(torch.utils._python_dispatch._get_current_dispatch_mode_stack()),
        "gradients": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
    }


def present(folder):
    gc.collect()
    return {
        "children": children(),
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "open files": open_files(),
        "folder": sorted(str(path.relative_to(folder)) for path in folder.rglob("*")),
        **hooks(),
    }


def settled(folder, before):
    """What is present once threads and processes that are about to end have ended; on a busy machine it takes time."""
    for _ in range(600):
        now = present(folder)
        if now == before:
            break
        time.sleep(0.1)
    return now


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where files could be left: both the working folder and that for temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    multiprocessing.resource_tracker.ensure_running()  # lives as long as this process
    handler = signal.getsignal(signal.SIGINT)
    yield tmp_path
    signal.signal(signal.SIGINT, handler)  # the Trainer ignores Ctrl-C after the first


def of_the_module(module):
    """What could be left on a module: attributes, hooks on its parts, hooks on its parameters."""
    parts = {name: vars(part) for name, part in module.named_modules()}
    return {
        "attributes": {name: set(attributes) for name, attributes in parts.items()},
        "functions": {n: [k for k, v in a.items() if callable(v) and k[0] != "_"] for n, a in parts.items()},
        "hooks": {n: [len(a[k]) for k in a if k.endswith("_hooks") and k[0] == "_"] for n, a in parts.items()},
        "tensors": [(p._backward_hooks, p._post_accumulate_grad_hooks) for p in module.parameters()],
    }


def loaders(workers):
    train, val = zoo_data(92, seed=1), zoo_data(70, seed=2)
    return DataLoader(train, 16, shuffle=True, num_workers=workers), DataLoader(val, 32, num_workers=workers)


def run(callbacks, end, moment="", batch=0, workers=0):
    """Fit until such an end; the module."""

    def act():
        raise ENDS[end]

    L.seed_everything(3, verbose=False)
    module = AdamCosine()
    trainer = make_trainer([*callbacks, Stop(moment if ENDS[end] else "", batch, act)])
    if end == "success":
        trainer.fit(module, *loaders(workers))
    else:
        with pytest.raises(SystemExit if end == "ctrl-c" else UsersError):
            trainer.fit(module, *loaders(workers))
    return module


@functools.cache
def untouched(end, moment):
    """What plain training leaves of a module that ends so."""
    return of_the_module(run([], end, moment, 9))


@pytest.mark.one_in(2)
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("name", METHODS)
def test_a_fit_leaves_nothing(name, end, folder):
    moments = MOMENTS if ENDS[end] else [""]
    turn = list(METHODS).index(name) + list(ENDS).index(end)
    for moment in moments if LONG else [moments[turn % len(moments)]]:
        plain, before = untouched(end, moment), present(folder)
        callback = METHODS[name]()
        module = run([callback], end, moment, 9)
        assert of_the_module(module) == plain
        assert settled(folder, before) == before
        if end == "success":
            assert getattr(callback, "_second", None) is None


SECONDS = ["law_search", "l2rw", "co_teaching"]


@pytest.mark.parametrize(
    ("name", "end"), [*product(SECONDS, ENDS)] if LONG else [*zip(SECONDS, ("success", "error", "ctrl-c"), strict=True)]
)
def test_a_fit_with_loaders_of_several_processes_leaves_nothing(name, end, folder):
    run([], end, "on_train_batch_end", 9, workers=1)
    before = present(folder)
    run([METHODS[name]()], end, "on_train_batch_end", 9, workers=1)
    assert settled(folder, before) == before


def search(seed_pool=0, workers=1):
    agent = StrategyAgent(num_stages=4, warmup_stages=1, epochs=1)
    options = {"eval_every": 2, "eval_seeds": 1, "progress": False, "trainer_kwargs": TRAINER}
    return StrategySearch(agent, 4, workers, seed_pool=seed_pool, **options)


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("seed_pool", [0, 2])
def test_a_search_leaves_nothing(end, seed_pool, folder):
    made = []

    def failing_module():
        made.append(make_module())
        if len(made) == 3 and ENDS[end]:  # after an episode, or two and their warm-ups
            raise ENDS[end]
        return made[-1]

    before = present(folder)
    found = search(seed_pool)
    if end == "success":
        found.run(failing_module, make_data)
    else:
        with pytest.raises(ENDS[end]):
            found.run(failing_module, make_data)
    assert len(made) >= 3
    assert settled(folder, before) == before


@long
@pytest.mark.parametrize("fails", [False, True])
def test_a_search_in_several_processes_leaves_nothing(fails, folder):
    before = present(folder)
    data = functools.partial(DyingData, 1, 1 if fails else -1, "raises")  # in the second worker's first training
    if fails:
        with pytest.raises(Exception, match="the data are gone"):
            search(workers=2).run(make_module, data)
    else:
        assert len(search(workers=2).run(make_module, data).history) == 4
    assert settled(folder, before) == before
