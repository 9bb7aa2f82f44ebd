"""Whatever ends a fit, at whatever step: resumed from the last whole checkpoint it ends as it would have, bit for bit.

Checkpoints are of an epoch's end, or of any step where the training loader keeps its position. Every method meets
every kind of end, in a random sample of modules, Trainers and moments; with ``LAW_FAULTS=long``, it meets them all.
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

import zoo
from hostile import LONG
from methods import METHODS
from test_methods import REFUSED
from test_promises import StopError, assert_same, outcome, stateful
from zoo import MODULES, TRAINERS, AdamCosine, BatchNormCNN, Hooked, Mixup, OwnFunction, Plateau, fit, loaders

pytestmark = pytest.mark.filterwarnings("ignore")

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


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def fail():
    raise StopError


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


def train(method, place, data, callbacks=(), seed=3, ckpt_path=None):
    module, trainer = place
    callback = METHODS[method]()
    trained = fit(module, [callback, *callbacks], seed, ckpt_path, data, **TRAINERS[trainer])
    return outcome(trained, callback)


def last_whole(folder):
    for path in sorted(folder.glob("*.ckpt"), key=lambda path: int(path.stem.split("=")[1]), reverse=True):
        try:
            torch.load(path, weights_only=True)
        except Exception:
            continue
        return path
    raise AssertionError("there is no whole checkpoint")


KINDS = {"killed": kill, "killed while writing": kill, "failed": fail, "full disk": run_out_of_space, "timed": None}


def drawn(method):
    draw = random.Random(method)
    places = [place for place in PLACES if (method, place[0]) not in REFUSED]
    for number, place in enumerate(draw.sample(places, len(places) if LONG else len(KINDS))):
        kind = list(KINDS)[number % len(KINDS)]
        # Time may be up within an epoch, whose end is then that of the step.
        data = stateful if kind == "timed" else draw.choice([loaders, stateful])
        first, last = 5 if data is stateful else 8, 16 if place[1] == "max_steps" else 23
        moments = MOMENTS[:-2] if place[0] is zoo.Auxiliary else MOMENTS  # which is not validated
        moment, batch = draw.choice(moments), draw.randint(first, last)
        if "validation" in moment and place[1] == "max_steps":
            batch = min(batch, 12)  # the last epoch is not validated
        name = f"{kind}-{method}-{place[0].__name__}-{place[1]}-{batch}-{data.__name__}"
        yield pytest.param(kind, method, place, moment, batch, data, id=name)


@pytest.mark.parametrize(
    ("kind", "method", "place", "moment", "batch", "data"), [case for method in METHODS for case in drawn(method)]
)
def test_a_stop_loses_nothing(kind, method, place, moment, batch, data, tmp_path, monkeypatch):
    every = {"every_n_train_steps": 1} if data is stateful else {"every_n_epochs": 1, "save_on_train_epoch_end": True}
    saving = ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, **every)
    act, case = KINDS[kind], (method, place, data)
    with monkeypatch.context() as patched:
        if kind == "timed":
            train(*case, [stop := TimeIsUp(batch), saving])
            assert stop.left == 0
        else:
            writing = kind in ("killed while writing", "full disk")
            stop = StopWriting(batch, act, patched) if writing else Stop(moment, batch, act)
            if act is kill:
                child = multiprocessing.get_context("fork").Process(target=train, args=(*case, [stop, saving]))
                child.start()
                child.join(60)
                assert child.exitcode == -signal.SIGKILL
            else:
                with pytest.raises(StopError if act is fail else OSError):
                    train(*case, [stop, saving])
    resumed = train(*case, seed=12345, ckpt_path=last_whole(tmp_path))  # another network at first
    assert_same(resumed, train(*case))


def test_a_checkpoint_of_a_step_that_failed_is_warned_of(tmp_path):
    """The first part of the step stays done: the run goes on, and says so."""
    saving = OnExceptionCheckpoint(tmp_path, "failed")
    with pytest.raises(StopError):
        train("law_search", (AdamCosine, "default"), stateful, [Stop("on_before_optimizer_step", 9, fail), saving])
    with pytest.warns(UserWarning, match="in the middle of a step, whose first part is not undone"):
        train("law_search", (AdamCosine, "default"), stateful, ckpt_path=tmp_path / "failed.ckpt")
