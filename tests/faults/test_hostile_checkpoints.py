"""Checkpoints of Lightning's whose part of the callback is made up: refused before the first step.

As in ``test_hostile_files``, a sample of the cases runs by default; with ``LAW_FAULTS=long`` all do.
"""

import io
import pickle
import random

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from hostile import Evil, bounded, forge, number, payloads, written
from law_lightning import LAWCallback, StrategyAgent
from zoo import AdamCosine, loaders, make_trainer

pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol", "ignore:.*ckpt_path", "ignore:.*resumable")

CHECKPOINTS = (200, 15)


class Began(L.Callback):
    began = False

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.began = True


def fit(callbacks, ckpt_path=None, weights_only=True):
    L.seed_everything(3, verbose=False)
    agent = StrategyAgent(num_stages=5, warmup_stages=1, members=2)
    trainer = make_trainer([LAWCallback(agent, keep="target"), *callbacks])
    trainer.fit(AdamCosine(), *loaders(), ckpt_path=ckpt_path, weights_only=weights_only)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """One that was made within an epoch and within a stage after the warm-up."""
    folder = tmp_path_factory.mktemp("checkpoint")
    fit([ModelCheckpoint(folder, "made", every_n_train_steps=14)])
    return (folder / "made.ckpt").read_bytes()


def resumed(content, path):
    """Whether a checkpoint was refused, with one clear error and before the first step."""
    path.write_bytes(content)
    first = Began()
    with bounded():
        try:
            fit([first], path)
            return False
        except (ValueError, MisconfigurationException) as error:
            message = str(error)
    assert not first.began, message
    assert "checkpoint" in message, message
    return True


def test_forged_checkpoints(checkpoint, tmp_path):
    assert not resumed(checkpoint, tmp_path / "whole.ckpt")
    refused = 0
    for case in range(number(CHECKPOINTS)):
        content = torch.load(io.BytesIO(checkpoint), weights_only=True)
        (state,) = (state for name, state in content["callbacks"].items() if name.startswith("LAWCallback"))
        forged = forge(state, random.Random(f"checkpoint {case}"))
        try:
            refused += resumed(written(content), tmp_path / "forged.ckpt")
        except BaseException as error:
            raise AssertionError(f"case {case}: {forged}") from error
    assert refused > number(CHECKPOINTS) / 2


@pytest.mark.parametrize("weights_only", [True, None])
def test_damaged_checkpoints(checkpoint, tmp_path, weights_only):
    """Lightning reads the file, and says what is wrong with it."""
    path, marker, first = tmp_path / "damaged.ckpt", tmp_path / "marker", Began()
    content = torch.load(io.BytesIO(checkpoint), weights_only=True)
    content["callbacks"] = dict.fromkeys(content["callbacks"], Evil(marker))
    for damage in (checkpoint[: len(checkpoint) // 2], b"", written(content), *payloads(marker)):
        path.write_bytes(damage)
        with bounded(), pytest.raises((pickle.UnpicklingError, RuntimeError, EOFError, ValueError)):
            fit([first], path, weights_only)
        assert not first.began
        assert not marker.exists()


@pytest.mark.parametrize("position", [625, -5, 2**31 - 1])
def test_random_states_that_would_end_the_process(checkpoint, tmp_path, position):
    content = torch.load(io.BytesIO(checkpoint), weights_only=True)
    (state,) = (state for name, state in content["callbacks"].items() if name.startswith("LAWCallback"))
    state["processes"][0]["order"]["now"]["numpy"][2] = position
    assert resumed(written(content), tmp_path / "forged.ckpt")


@pytest.mark.parametrize("metric", [None, "text", 0.5, torch.zeros(2), torch.zeros(1).expand(2**40)])
def test_metrics_that_are_no_single_numbers_are_refused(checkpoint, tmp_path, metric):
    """They would be left out, and what follows them would miss them without a word."""
    content = torch.load(io.BytesIO(checkpoint), weights_only=True)
    (state,) = (state for name, state in content["callbacks"].items() if name.startswith("LAWCallback"))
    state["metrics"]["val_loss"] = metric
    assert resumed(written(content), tmp_path / "forged.ckpt")
