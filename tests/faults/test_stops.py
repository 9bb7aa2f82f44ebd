"""Whatever ends a fit, at whatever step: resumed from the last whole checkpoint it ends as it would have, bit for bit.

A random sample of methods, modules, Trainers and moments; ``LAW_FAULTS=long`` draws a larger one.
"""

import copy
import errno
import functools
import io
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging, ModelCheckpoint, OnExceptionCheckpoint, Timer

from hostile import LONG, long
from law_lightning.callbacks.order import DataOrder
from law_lightning.callbacks.requeue import RequeueSignal
from methods import METHODS
from test_methods import REFUSED
from test_promises import assert_same
from zoo import (
    MODULES,
    TRAINERS,
    AdamCosine,
    BatchNormCNN,
    Hooked,
    Mixup,
    OwnFunction,
    Plateau,
    Turned,
    fit,
    loaders,
    make_trainer,
)

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
# Hooked and OwnFunction keep on themselves what no checkpoint holds, so they cannot go on within an epoch, and in plain
# training neither.
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


# What SLURM tells its jobs.
SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NAME": "training",
    "SLURM_JOB_NODELIST": "localhost",
    "SLURM_NTASKS": "1",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_PROCID": "0",
}


@pytest.fixture
def slurm(monkeypatch, tmp_path):
    """A job of SLURM's, which is ended as soon as it has asked to be queued again."""
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    program = tmp_path / "bin" / "scontrol"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\n[ "$*" = "requeue 7" ] && kill -KILL $PPID\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    return tmp_path / "job"


@functools.cache  # once in a process
def signal_soon(delay):
    """The moment is that of the clock, and differs from run to run."""
    threading.Timer(delay, os.kill, (os.getpid(), signal.SIGUSR1)).start()


def outcome(module, callback):
    """All that a fit leaves."""
    found = {"module": dict(module.state_dict()), "history": callback.history}
    for name in ("reference", "peer"):
        if getattr(callback, name, None) is not None:
            found[name] = dict(getattr(callback, name).state_dict())
    if hasattr(callback, "agent"):
        found |= {"agent": callback.agent.full_state(), "buffer": callback.buffer.state_dict()}
    return found


def train(method, place, callbacks=(), seed=3, ckpt_path=None, **options):
    module, trainer = place
    callback = METHODS[method]()
    trained = fit(module, [callback, *callbacks], seed, ckpt_path, **TRAINERS[trainer] | options)
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
        moment, batch, every = draw.choice(MOMENTS), draw.randint(7, last), draw.randint(1, 2)
        if "validation" in moment and place[1] == "max_steps":
            batch = min(batch, 12)  # the last epoch is not validated
        yield pytest.param(method, place, moment, batch, every, id=f"{method}-{place[0].__name__}-{place[1]}-{batch}")


def stopped(kind, method, place, stop, every, folder):
    """Stop a fit and resume it: the last checkpoint's step, and what it came to."""
    saving = ModelCheckpoint(folder, "{step}", every_n_train_steps=every, save_top_k=-1, save_on_train_epoch_end=False)
    if kind == "killed":
        assert in_a_child(train, method, place, [stop, saving]) == -signal.SIGKILL
    elif kind == "timed":
        train(method, place, [stop, saving])
        assert stop.left == 0
    else:
        with pytest.raises(UsersError if kind == "failed" else OSError):
            train(method, place, [stop, saving])
    return train(method, place, seed=12345, ckpt_path=last_whole(folder))  # another network, other random states


@pytest.mark.parametrize(("method", "place", "moment", "batch", "every"), list(drawn("killed")))
def test_killed(method, place, moment, batch, every, tmp_path):
    stop = Stop(moment, batch, kill)
    assert_same(stopped("killed", method, place, stop, every, tmp_path), train(method, place))


@pytest.mark.parametrize(("method", "place", "moment", "batch", "every"), list(drawn("killed while writing")))
def test_killed_while_a_checkpoint_is_written(method, place, moment, batch, every, tmp_path, monkeypatch):
    stop = StopWriting(batch, kill, monkeypatch)
    resumed = stopped("killed", method, place, stop, every, tmp_path)
    assert_same(resumed, train(method, place))


@pytest.mark.parametrize(("method", "place", "moment", "batch", "every"), list(drawn("failed")))
def test_an_error_of_the_users(method, place, moment, batch, every, tmp_path):
    stop = Stop(moment, batch, fail)
    assert_same(stopped("failed", method, place, stop, every, tmp_path), train(method, place))


@pytest.mark.parametrize(("method", "place", "moment", "batch", "every"), list(drawn("full disk")))
def test_a_full_disk(method, place, moment, batch, every, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        stop = StopWriting(batch, run_out_of_space, patched)
        resumed = stopped("disk", method, place, stop, every, tmp_path)
    assert_same(resumed, train(method, place))


@pytest.mark.parametrize(("method", "place", "moment", "batch", "every"), list(drawn("timed")))
def test_a_timer(method, place, moment, batch, every, tmp_path):
    assert_same(stopped("timed", method, place, TimeIsUp(batch), every, tmp_path), train(method, place))


def requeued(method, place, stop, folder, **options):
    """Signal a fit of SLURM's to be queued again, and let it go on: what it came to."""
    first = functools.partial(train, default_root_dir=folder, **options)
    assert in_a_child(first, method, place, [stop]) == -signal.SIGKILL
    assert [path.name for path in folder.iterdir()] == ["hpc_ckpt_1.ckpt"]
    return train(method, place, seed=12345, default_root_dir=folder, **options)  # the Trainer finds the checkpoint


@pytest.mark.parametrize(("method", "place", "moment", "batch", "every"), list(drawn("requeued")))
def test_queued_again(method, place, moment, batch, every, slurm):
    stop = Stop(moment, batch, functools.partial(signal.raise_signal, signal.SIGUSR1))
    assert_same(requeued(method, place, stop, slurm), train(method, place))


@pytest.mark.parametrize(("method", "place", "moment", "batch", "every"), list(drawn("requeued at any time")))
def test_queued_again_at_any_time(method, place, moment, batch, every, slurm):
    stop = Stop("on_train_batch_start", batch // 2, functools.partial(signal_soon, every * batch / 4000))
    assert_same(requeued(method, place, stop, slurm), train(method, place))


IN_VALIDATION = [
    "on_validation_start",
    "on_validation_batch_start",
    "validation_step",
    "on_validation_batch_end",
    "on_validation_epoch_end",
    "on_validation_end",
]


@pytest.mark.one_in(2)
@pytest.mark.parametrize("options", [{}, {"val_check_interval": 3}], ids=["epoch", "interval"])
@pytest.mark.parametrize("moment", IN_VALIDATION)
def test_queued_again_in_a_validation_that_the_rate_follows(moment, options, slurm):
    """The whole validation is done anew, so that what follows its metrics does so."""
    stop = Stop(moment, 1, functools.partial(signal.raise_signal, signal.SIGUSR1))  # in the first of the training
    place = (Plateau, "default")
    assert_same(requeued("law_search", place, stop, slurm, **options), train("law_search", place, **options))


class TrainPlateau(Plateau):
    """A rate that follows a metric of the training, which a validation that is done anew does not bring back."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self):
        optimizers = super().configure_optimizers()
        optimizers["lr_scheduler"]["monitor"] = "train_loss"
        optimizers["lr_scheduler"]["scheduler"].threshold = 0.9  # nothing counts as better: every step halves the rate
        return optimizers


@pytest.mark.parametrize("module", [AdamCosine, Plateau, TrainPlateau])
@pytest.mark.parametrize("moment", IN_VALIDATION[:-1])
def test_an_error_in_a_validation_loses_nothing(moment, module, tmp_path):
    """From a checkpoint that is written when the fit has failed."""
    stop, place = Stop(moment, 7, fail), (module, "default")
    with pytest.raises(UsersError):
        train("focal", place, [stop, OnExceptionCheckpoint(tmp_path)])
    resumed = train("focal", place, seed=12345, ckpt_path=tmp_path / "on_exception.ckpt")
    assert_same(resumed, train("focal", place))


class LastPlateau(Plateau):
    """A rate that is halved for the last validation's loss, in epochs without one, too."""

    each = {"strict": False}  # the first epoch has none to follow

    def configure_optimizers(self):
        optimizers = super().configure_optimizers()
        optimizers["lr_scheduler"] |= self.each
        optimizers["lr_scheduler"]["scheduler"].threshold = 0.9
        return optimizers


class StepPlateau(LastPlateau):
    """The same, after every other step."""

    each = {"strict": False, "interval": "step", "frequency": 2}


@pytest.mark.parametrize(("module", "options"), [(LastPlateau, {"check_val_every_n_epoch": 2}), (StepPlateau, {})])
def test_metrics_of_before_a_stop_are_gone_on_with(module, options, tmp_path):
    """Where no validation comes between the stop and what follows its metrics."""
    stop, place = Stop("forward", 14, fail), (module, "default")
    saving = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1, save_on_train_epoch_end=False)
    with pytest.raises(UsersError):
        train("focal", place, [stop, saving], **options)
    resumed = train("focal", place, seed=12345, ckpt_path=last_whole(tmp_path), **options)
    assert_same(resumed, train("focal", place, **options))


def test_an_error_before_our_part_of_a_validation_loses_nothing(tmp_path):
    """A callback in front of ours, or the user's loader, may fail when it has begun for the Trainer alone."""
    stop = Stop("on_validation_start", 7, fail)
    with pytest.raises(UsersError):
        fit(Plateau, [stop, METHODS["focal"](), OnExceptionCheckpoint(tmp_path)], 3)
    resumed = train("focal", (Plateau, "default"), seed=12345, ckpt_path=tmp_path / "on_exception.ckpt")
    assert_same(resumed, train("focal", (Plateau, "default")))


def test_a_training_that_goes_on_first_forgets_the_validation_that_was_stopped():
    """By the clock, say (val_check_interval=timedelta(...)), the next validation comes later."""
    order = DataOrder()
    order.begin_validation()
    state = order.state_dict()
    torch.rand(1)
    trainer = make_trainer()
    order.restore(trainer, state)
    order.begin_batch()
    torch.rand(1)
    before = torch.get_rng_state()
    order.begin_validation()
    assert torch.equal(torch.get_rng_state(), before)
    order.restore(trainer, state)
    order.begin_validation()
    assert torch.equal(torch.get_rng_state(), state["validation_start"]["torch"])


def test_no_callback_counts_a_validation_twice(slurm):
    """A signal that comes when callbacks in front of ours are done with a validation."""

    def trained(*stops, **options):
        early = EarlyStopping("val_loss", patience=3, min_delta=10.0, check_on_train_epoch_end=False)
        callback = METHODS["focal"]()
        module = fit(AdamCosine, [early, *stops, callback], max_epochs=6, **options)
        return outcome(module, callback) | {"stopped": [early.stopped_epoch, early.wait_count]}

    stop = Stop("on_validation_end", 7, functools.partial(signal.raise_signal, signal.SIGUSR1))
    assert in_a_child(functools.partial(trained, default_root_dir=slurm), stop) == -signal.SIGKILL
    whole = trained()
    assert whole["stopped"] == [3, 3]
    assert_same(trained(default_root_dir=slurm), whole)


AVERAGED = ("focal", (AdamCosine, "default"))


def test_queued_again_beside_averaged_weights(slurm):
    """In a validation the average is in the network's place: the signal waits."""
    stop = Stop("on_validation_batch_end", 1, functools.partial(signal.raise_signal, signal.SIGUSR1))
    first = functools.partial(train, default_root_dir=slurm)
    assert in_a_child(first, *AVERAGED, [stop, EMAWeightAveraging(decay=0.5)]) == -signal.SIGKILL
    resumed = train(*AVERAGED, [EMAWeightAveraging(decay=0.5)], seed=12345, default_root_dir=slurm)
    assert_same(resumed, train(*AVERAGED, [EMAWeightAveraging(decay=0.5)]))


def test_an_error_in_a_validation_of_averaged_weights_is_told(tmp_path):
    stop = Stop("on_validation_batch_end", 7, fail)
    with pytest.raises(UsersError):
        train(*AVERAGED, [stop, EMAWeightAveraging(decay=0.5), OnExceptionCheckpoint(tmp_path)])
    with pytest.warns(UserWarning, match="the two are exchanged from now on"):
        train(*AVERAGED, [EMAWeightAveraging(decay=0.5)], ckpt_path=tmp_path / "on_exception.ckpt")


class TurnedOnDevice(AdamCosine):
    """Its batches are disturbed by the global random states when they have reached the device."""

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return [batch[0] + 0.1 * torch.randn_like(batch[0]), batch[1]] if self.trainer.training else batch


@pytest.mark.parametrize("batch", [1, 4, 7, 10])
def test_queued_again_where_batches_are_augmented(batch, slurm):
    stop = Stop("forward", batch, functools.partial(signal.raise_signal, signal.SIGUSR1))
    place = (TurnedOnDevice, "default")
    assert_same(requeued("focal", place, stop, slurm), train("focal", place))


@pytest.mark.parametrize(("moment", "batch"), [("on_train_batch_end", 5), ("forward", 6), ("forward", 7)])
def test_queued_again_where_loaders_are_made_anew(moment, batch, slurm):
    stop = Stop(moment, batch, functools.partial(signal.raise_signal, signal.SIGUSR1))
    method, place, options = "focal", (AdamCosine, "default"), {"reload_dataloaders_every_n_epochs": 1}
    assert_same(requeued(method, place, stop, slurm, **options), train(method, place, **options))


class FullDisk(TorchCheckpointIO):
    def save_checkpoint(self, checkpoint, path, storage_options=None):
        run_out_of_space()


def test_a_checkpoint_that_cannot_be_written_leaves_no_handler(slurm):
    """Lightning would not set its own in the next fit, so the next signal would be lost."""
    signals = Stop("forward", 4, functools.partial(signal.raise_signal, signal.SIGUSR1))
    callback, module = METHODS["law_search"](), AdamCosine()
    with pytest.raises(OSError, match="No space left"):
        make_trainer([callback, signals], plugins=[FullDisk()], default_root_dir=slurm).fit(module, *loaders())
    assert not isinstance(getattr(signal.getsignal(signal.SIGUSR1), "__self__", None), RequeueSignal)
    assert "training_step" not in vars(module)
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)  # Lightning's own is left by a fit that fails


def test_the_handler_that_was_there_comes_back(slurm):
    received = []

    def lightnings(number, frame):
        received.append(number)

    before = signal.signal(signal.SIGUSR1, lightnings)
    try:
        requeue = RequeueSignal(make_trainer())
        signal.raise_signal(signal.SIGUSR1)
        assert (received, requeue.pending) == ([], True)
        assert not copy.deepcopy(requeue).pending  # a copy has neither the signal nor the Trainer
        requeue.deliver()
        requeue.deliver()
        assert received == [signal.SIGUSR1]
        requeue.release()
        signal.raise_signal(signal.SIGUSR1)
        assert len(received) == 2
        requeue.detach()
        assert signal.getsignal(signal.SIGUSR1) is lightnings
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("batch", [1, 4, 7, 10])
def test_queued_again_where_data_are_augmented(batch, slurm, monkeypatch):
    own = loaders()
    augmented = lambda: (torch.utils.data.DataLoader(Turned(), batch_size=16, shuffle=True), own[1])  # noqa: E731
    monkeypatch.setattr("zoo.loaders", augmented)
    stop = Stop("forward", batch, functools.partial(signal.raise_signal, signal.SIGUSR1))
    place = (AdamCosine, "default")
    assert_same(requeued("law_search", place, stop, slurm), train("law_search", place))


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("steps", [(3,), (6,), (3, 9), (13, 18)] if LONG else [(3,), (6,)])
def test_loaders_with_processes_of_their_own(steps, persistent, tmp_path, monkeypatch):
    """They draw the order when they are made, or begin anew, not with the first batch; stopped once or twice."""
    own = loaders()
    options = {"batch_size": 16, "shuffle": True, "num_workers": 1, "persistent_workers": persistent}
    monkeypatch.setattr("zoo.loaders", lambda: (torch.utils.data.DataLoader(own[0].dataset, **options), own[1]))
    place, checkpoint = (AdamCosine, "default"), None
    for turn, step in enumerate([*steps, None]):
        folder = tmp_path / str(turn)
        saving = ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1, save_on_train_epoch_end=False)
        found = train("focal", place, [saving], seed=3 if turn == 0 else 99, ckpt_path=checkpoint)
        if turn == 0:
            whole = found
        assert_same(found, whole)
        checkpoint = folder / f"step={step}.ckpt"


def in_two_processes(folder, name, signalled, kind):
    """Run a job of two processes to its end; the second is signalled within its eighth step, or none is."""
    (folder / "bin").mkdir(parents=True, exist_ok=True)
    program = folder / "bin" / "scontrol"
    program.write_text("#!/bin/sh\nexit 0\n")  # SLURM takes its time: the job goes on meanwhile
    program.chmod(0o755)
    job = (
        os.environ
        | SLURM
        | {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "OMP_NUM_THREADS": "1", "MASTER_PORT": str(free_port())}
    )
    job["PATH"] = f"{program.parent}:{os.environ['PATH']}"
    command = [sys.executable, str(Path(__file__).parents[1] / "helpers" / "requeue_run.py"), str(folder), name, kind]
    running = [
        subprocess.Popen(
            [*command, str(8 if signalled and rank == 1 else 0)],
            env=job | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    outputs = [process.communicate(timeout=120)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0], outputs
    return [torch.load(folder / f"{name}_{rank}.pt", weights_only=True) for rank in range(2)]


def free_port():
    with socket.socket() as place:
        place.bind(("localhost", 0))
        return place.getsockname()[1]


@long
@pytest.mark.parametrize("kind", ["plain", "augmented"])
def test_two_processes_are_queued_again_at_one_step(kind, tmp_path):
    """The signal reaches one of them alone; without an agreement each would wait for the other elsewhere.

    Augmented data are validated after that step, which draws from the states that the next batch is augmented by.
    """
    whole = in_two_processes(tmp_path, "whole", signalled=True, kind=kind)
    (checkpoint,) = tmp_path.glob("hpc_ckpt_*.ckpt")
    assert torch.load(checkpoint, weights_only=True)["global_step"] == 8
    resumed = in_two_processes(tmp_path, "resumed", signalled=False, kind=kind)
    for one, other in zip(resumed, whole, strict=True):
        assert_same(one, other)
