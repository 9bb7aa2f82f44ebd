"""After a fit or a search, however it ended, nothing is left: no process, thread, file or hook of the package's."""

import functools
import gc
import multiprocessing.forkserver
import os
import signal
import tempfile
import threading
import time
from contextlib import nullcontext
from pathlib import Path

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from test_stops import Stop
from torch.utils.data import DataLoader

from law_lightning.data import DigitsDataModule
from methods import METHODS
from search_parts import make_module, new_search
from test_promises import StopError
from zoo import AdamCosine, loaders, make_trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files in /proc"),
]

ENDS = {"success": None, "error": StopError, "ctrl-c": KeyboardInterrupt}
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


@pytest.fixture(scope="module", autouse=True)
def _warmed_up():
    """What ends with this process alone is there already."""
    for server in (multiprocessing.resource_tracker, multiprocessing.forkserver):
        server.ensure_running()
    torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # libuv keeps a pipe
    run([], "success", "", workers=1)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where files could be left: both the working folder and that for temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    handler = signal.getsignal(signal.SIGINT)
    yield tmp_path
    signal.signal(signal.SIGINT, handler)  # the Trainer ignores Ctrl-C after the first


def run(callbacks, end, moment, workers=0):
    def act():
        raise ENDS[end]

    L.seed_everything(3, verbose=False)
    module, data = AdamCosine(), [DataLoader(each.dataset, 16, num_workers=workers) for each in loaders()]
    trainer = make_trainer([*callbacks, Stop(moment if ENDS[end] else "", 9, act)])
    if end == "success":
        trainer.fit(module, *data)
    else:
        with pytest.raises(SystemExit if end == "ctrl-c" else StopError):
            trainer.fit(module, *data)
    return module


@functools.cache
def left_by_plain_training(end, moment, workers):
    return of_the_module(run([], end, moment, workers))


def of_the_module(module):
    """Attributes, and the numbers of hooks on its layers and parameters."""
    layers = [vars(layer) for layer in module.modules()]
    hooks = [len(layer[name]) for layer in layers for name in layer if "_hooks" in name]
    of_tensors = [(each._backward_hooks, each._post_accumulate_grad_hooks) for each in module.parameters()]
    return [set(layer) for layer in layers], hooks, of_tensors


@pytest.mark.one_in(3)
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("name", METHODS)
def test_a_fit_leaves_nothing(name, end, folder):
    moment = MOMENTS[(list(METHODS).index(name) + list(ENDS).index(end)) % len(MOMENTS)]
    workers = int(name in ("law_search", "l2rw", "co_teaching"))
    expected, before = left_by_plain_training(end, moment if ENDS[end] else "", workers), present(folder)
    assert of_the_module(run([METHODS[name]()], end, moment, workers)) == expected
    assert_settled(folder, before)


class FailingData(DigitsDataModule):
    def __init__(self, end, after=3):
        super().__init__(train_size=60, val_size=100, batch_size=30)
        self.end, self.after = end, after

    def train_dataloader(self):
        self.after -= 1
        if self.after == 0 and self.end is not None:
            raise self.end
        return super().train_dataloader()


CASES = [(*each, end) for each in ((1, 0), (1, 2), (2, 0)) for end in ENDS if (each[0], end) != (2, "ctrl-c")]


@pytest.mark.one_in(2)
@pytest.mark.parametrize(("workers", "seed_pool", "end"), CASES)  # workers ignore Ctrl-C
def test_a_search_leaves_nothing(end, workers, seed_pool, folder):
    error = ENDS[end]
    before = present(folder)
    search = new_search(workers=workers, seed_pool=seed_pool)
    # Lightning ends the program after Ctrl-C in a fit.
    with pytest.raises(SystemExit if error is KeyboardInterrupt else error) if error else nullcontext():
        search.run(make_module, functools.partial(FailingData, error))
    assert len(search.history) == (0 if error else 4)
    assert_settled(folder, before)
