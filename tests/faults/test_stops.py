"""Whatever ends a fit, at whatever step: resumed from the last whole checkpoint it ends as it would have, bit for bit.

Checkpoints are of an epoch's end, or of any step where the training loader keeps its position. A random sample of
methods, modules, Trainers and moments; ``LAW_FAULTS=long`` draws a larger one.
"""

import errno
import io
import multiprocessing
import os
import random
import signal
from datetime import timedelta
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint, OnExceptionCheckpoint, Timer

from hostile import LONG
from methods import METHODS
from test_methods import REFUSED
from test_promises import assert_same, stateful
from zoo import MODULES, TRAINERS, AdamCosine, BatchNormCNN, Hooked, Mixup, OwnFunction, Plateau, fit, loaders

pytestmark = pytest.mark.filterwarnings("ignore")

EACH = 25 if LONG else 4
MOMENTS = [
    "forward",
    "on_train_batch_start",
    "on_before_optimizer_step",
    "on_train_batch_end",
    "on_train_epoch_end",
    "validation_step",
    "on_validation_batch_end",
]
# Hooked and OwnFunction keep on themselves what no checkpoint holds, so they cannot go on, and in plain training
# neither; Lightning does not step ReduceLROnPlateau where a checkpoint was written.
PLACES = [(module, "default") for module in MODULES if module not in (Hooked, OwnFunction, Plateau)]
PLACES += [(module, name) for module in (BatchNormCNN, AdamCosine, Mixup) for name in TRAINERS if name != "default"]


class UsersError(Exception):
    """Of the user's own code."""


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def fail():
    raise UsersError


def run_out_of_space():
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Stop(L.Callback):
    """Does something at the first such moment from the n-th batch on."""

    def __init__(self, moment, batch, act):
        self.moment, self.batch, self.act, self.begun = moment, batch, act, 0
        if moment not in ("", "forward", "validation_step", "on_train_batch_start"):
            setattr(self, moment, self.check)

    def check(self, *args, **kwargs):
        if self.begun >= self.batch:
            self.act()

    def on_fit_start(self, trainer, pl_module):
        if self.moment == "forward":  # of the module or of a copy of it
            pl_module.net.register_forward_hook(lambda *args: self.check())
        elif self.moment == "validation_step":
            pl_module.net.register_forward_hook(lambda *args: self.check() if trainer.validating else None)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.begun += 1
        if self.moment == "on_train_batch_start":
            self.check()


class StopWriting(Stop):
    """Does something when half of a checkpoint is written."""

    def __init__(self, batch, act, monkeypatch):
        super().__init__("", batch, None)
        whole = TorchCheckpointIO.save_checkpoint

        def save_checkpoint(plugin, checkpoint, path, storage_options=None):
            if self.begun < batch:
                return whole(plugin, checkpoint, path, storage_options)
            content = io.BytesIO()
            torch.save(checkpoint, content)
            Path(path).write_bytes(content.getvalue()[: len(content.getvalue()) // 2])
            return act()

        monkeypatch.setattr(TorchCheckpointIO, "save_checkpoint", save_checkpoint)


class TimeIsUp(Timer):
    """Lightning's Timer, whose time is up after the n-th batch."""

    def __init__(self, batch):
        super().__init__(timedelta(days=1), interval="step")
        self.left = batch

    def on_train_batch_end(self, trainer, *args, **kwargs):
        self.left -= 1
        if self.left == 0:
            self._duration = 0.0
        super().on_train_batch_end(trainer, *args, **kwargs)


def outcome(module, callback):
    """All that a fit leaves."""
    found = {"module": dict(module.state_dict()), "history": callback.history}
    for name in ("reference", "peer"):
        if getattr(callback, name, None) is not None:
            found[name] = dict(getattr(callback, name).state_dict())
    if hasattr(callback, "agent"):
        found |= {"agent": callback.agent.full_state(), "buffer": callback.buffer.state_dict()}
    return found


def train(method, place, data, callbacks=(), seed=3, ckpt_path=None):
    module, trainer = place
    callback = METHODS[method]()
    trained = fit(module, [callback, *callbacks], seed, ckpt_path, data, **TRAINERS[trainer])
    return outcome(trained, callback)


def last_whole(folder):
    """The newest checkpoint that can be read."""
    for path in sorted(folder.glob("*.ckpt"), key=lambda path: int(path.stem.split("=")[1]), reverse=True):
        try:
            torch.load(path, weights_only=True)
        except Exception:
            continue
        return path
    raise AssertionError("there is no whole checkpoint")


def in_a_child(function, *args):
    """Run in a process of its own; how it ended."""
    child = multiprocessing.get_context("fork").Process(target=function, args=args)
    child.start()
    child.join(60)
    return child.exitcode


def drawn(kind):
    draw = random.Random(f"{kind} {EACH}")
    places = [(method, place) for method in METHODS for place in PLACES if (method, place[0]) not in REFUSED]
    for method, place in draw.sample(places, EACH):
        last = 16 if place[1] == "max_steps" else 23
        moment, batch = draw.choice(MOMENTS), draw.randint(8, last)
        if "validation" in moment and place[1] == "max_steps":
            batch = min(batch, 12)  # the last epoch is not validated
        # Time may be up within an epoch, whose end is then that of the step.
        data = stateful if kind == "timed" else draw.choice([loaders, stateful])
        name = f"{method}-{place[0].__name__}-{place[1]}-{batch}-{data.__name__}"
        yield pytest.param(method, place, moment, batch, data, id=name)


@pytest.mark.parametrize(
    ("kind", "method", "place", "moment", "batch", "data"),
    [
        pytest.param(kind, *case.values, id=f"{kind}-{case.id}")
        for kind in ("killed", "killed while writing", "failed", "full disk", "timed")
        for case in drawn(kind)
    ],
)
def test_a_stop_loses_nothing(kind, method, place, moment, batch, data, tmp_path, monkeypatch):
    every = {"every_n_train_steps": 1} if data is stateful else {"every_n_epochs": 1, "save_on_train_epoch_end": True}
    saving = ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, **every)
    with monkeypatch.context() as patched:
        if kind == "killed":
            stop = Stop(moment, batch, kill)
        elif kind == "killed while writing":
            stop = StopWriting(batch, kill, patched)
        elif kind == "failed":
            stop = Stop(moment, batch, fail)
        elif kind == "full disk":
            stop = StopWriting(batch, run_out_of_space, patched)
        else:
            stop = TimeIsUp(batch)
        if "killed" in kind:
            assert in_a_child(train, method, place, data, [stop, saving]) == -signal.SIGKILL
        elif kind == "timed":
            train(method, place, data, [stop, saving])
            assert stop.left == 0
        else:
            with pytest.raises(UsersError if kind == "failed" else OSError):
                train(method, place, data, [stop, saving])
    resumed = train(method, place, data, seed=12345, ckpt_path=last_whole(tmp_path))  # another network at first
    assert_same(resumed, train(method, place, data))


def test_a_checkpoint_of_a_step_that_failed_is_warned_of(tmp_path):
    """The first part of the step stays done: the run goes on, and says so."""
    saving = OnExceptionCheckpoint(tmp_path, "failed")
    with pytest.raises(UsersError):
        train("law_search", (AdamCosine, "default"), stateful, [Stop("on_before_optimizer_step", 9, fail), saving])
    with pytest.warns(UserWarning, match="in the middle of a step, whose first part is not undone"):
        train("law_search", (AdamCosine, "default"), stateful, ckpt_path=tmp_path / "failed.ckpt")
