"""Which labels are likely wrong, from any training with a callback."""

import gc

import pytest
import torch
from lightning.pytorch.callbacks import (
    GradientAccumulationScheduler,
    ModelCheckpoint,
    StochasticWeightAveraging,
    Timer,
)
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

import zoo
from law_lightning import CoTeachingCallback, LAWCallback, WeightingCallback
from law_lightning.weighting import FocalWeighting, unweighted
from zoo import BatchNormCNN, DropoutMLP, assert_identical, fit, plain

DATA = zoo.make_data(92, seed=1)


def watch():
    return WeightingCallback(unweighted, num_stages=1, total_steps=1)


@pytest.mark.parametrize(
    "make",
    [watch, LAWCallback, lambda: WeightingCallback(FocalWeighting()), lambda: CoTeachingCallback(0.2)],
    ids=["unweighted", "law", "focal", "co_teaching"],
)
def test_every_callback_knows_its_suspects(make):
    callback = make()
    fit(DropoutMLP, [callback])
    table = callback.dynamics.table()
    assert table["index"].tolist() == list(range(92))
    assert table["seen"].tolist() == [4] * 92
    assert torch.equal(table["given"], DATA.tensors[1])
    suspects = callback.suspects(5)
    assert [set(each) for each in suspects] == [{"index", "given", "predicted", "score"}] * 5
    for each in suspects:
        assert each["given"] == DATA.tensors[1][each["index"]] != each["predicted"]
        assert 0 < each["score"] <= 1
    assert [each["score"] for each in suspects] == sorted((each["score"] for each in suspects), reverse=True)
    assert len(callback.suspects()) < len(callback.suspects(92)) == 92
    with pytest.raises(ValueError, match="k, a number of samples, must be at least 0"):
        callback.suspects(-1)


class Regression(DropoutMLP):
    def training_step(self, batch, batch_idx):
        return nn.functional.mse_loss(self(batch[0]).mean(1), batch[1].float())


def test_to_watch_changes_nothing_and_demands_nothing(recwarn):
    callback = watch()
    assert_identical(fit(BatchNormCNN, [callback]).state_dict(), plain(BatchNormCNN))
    assert callback.scalars(callback.history[-1]) == {}
    callback = watch()
    fit(Regression, [callback], max_epochs=1)
    with pytest.raises(MisconfigurationException, match=r"recorded no sample.* no loss was seen"):
        callback.suspects(1)
    assert not [each for each in recwarn if "LAW" in str(each.message) or "stages" in str(each.message)]


class OwnDict(BatchNormCNN):
    """Returns a dict whose entries mean something else to it than to a weighting."""

    def training_step(self, batch, batch_idx):
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1], reduction="sum")
        return {"loss": loss, "losses": [loss.detach()]}


@pytest.mark.parametrize(
    ("module", "other", "options"),
    [
        (OwnDict, lambda: Timer(), {}),
        (BatchNormCNN, lambda: StochasticWeightAveraging(0.01, swa_epoch_start=2), {}),  # an epoch more
        (BatchNormCNN, lambda: GradientAccumulationScheduler({0: 1, 1: 2}), {"fast_dev_run": True}),
    ],
    ids=["dict", "swa", "fast_dev_run"],
)
def test_what_cannot_be_weighted_can_be_watched(module, other, options):
    callback = watch()
    expected = fit(module, [other()], **options).state_dict()
    assert_identical(fit(module, [other(), callback], **options).state_dict(), expected)
    assert len(callback.suspects(1)) == 1


class LastPosition(DropoutMLP):
    """Its logits are a view of those at all positions; counts the tensors in whose memory these are."""

    def training_step(self, batch, batch_idx):
        logits = self(batch[0]).unsqueeze(1).repeat(1, 99, 1)
        return nn.functional.cross_entropy(logits[:, -1], batch[1])

    def on_train_batch_start(self, batch, batch_idx):
        size = 16 * 99 * 4 * zoo.CLASSES  # bytes
        if batch_idx == 5:
            tensors = [each for each in gc.get_objects() if type(each) is torch.Tensor]
            self.kept = sum(each.untyped_storage().nbytes() == size for each in tensors)


def test_logits_at_other_positions_are_not_kept():
    module = LastPosition()
    fit(lambda: module, [WeightingCallback(FocalWeighting(), num_stages=1)], max_epochs=1)
    assert module.kept == 0


def test_before_a_fit_there_are_none():
    with pytest.raises(MisconfigurationException, match="Fit with it first"):
        watch().suspects(1)


def test_a_stop_loses_nothing_of_them(tmp_path):
    options = {"filename": "last", "enable_version_counter": False, "save_on_train_epoch_end": True}
    whole = watch()
    fit(DropoutMLP, [whole, ModelCheckpoint(tmp_path / "a", **options)])
    fit(DropoutMLP, [watch(), ModelCheckpoint(tmp_path / "b", **options)], max_epochs=2)
    resumed = watch()
    fit(DropoutMLP, [resumed], ckpt_path=tmp_path / "b" / "last.ckpt")
    for name, value in whole.dynamics.table().items():
        assert torch.equal(value, resumed.dynamics.table()[name]), name
