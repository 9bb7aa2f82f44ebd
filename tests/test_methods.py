"""Every method on the matrix of modules: it trains, and leaves nothing behind; faults/test_stops.py resumes it."""

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader

import zoo
from law_lightning import CoTeachingCallback, LAWCallback, StrategyAgent
from law_lightning.second_network.evaluation import Evaluator
from law_lightning.weighting.base import BaseWeighting
from methods import METHODS
from test_promises import assert_same, outcome
from zoo import assert_identical, differ, fit, loaders, make_data, make_trainer, plain

MATRIX = [(module, "default") for module in zoo.MODULES]
MATRIX += [(zoo.BatchNormCNN, name) for name in zoo.TRAINERS if name != "default"]
#: Class counts of four classes do not fit a head of two; co-teaching refuses LBFGS.
REFUSED = {("class_balanced", zoo.TwoHeads), ("co_teaching", zoo.LineSearch)}
CASES = [
    pytest.param(name, module, trainer, id=f"{name}-{module.__name__}-{trainer}")
    for name in METHODS
    for module, trainer in MATRIX
    if (name, module) not in REFUSED
]


@pytest.mark.one_in(3)
@pytest.mark.parametrize(("name", "module", "trainer"), CASES)
def test_it_trains_otherwise_than_plain_training_and_leaves_nothing_behind(name, module, trainer):
    callback = METHODS[name]()
    before = set(vars(module()))
    trained = fit(module, [callback], **zoo.TRAINERS[trainer])
    assert [record["stage"] for record in callback.history] == [0, 1, 2, 3, 4]
    assert list(trained.state_dict()) == list(plain(module, trainer))
    assert differ(trained.state_dict(), plain(module, trainer))
    left = set(vars(trained)) - before
    assert not {name for name in left if "law" in name or name == "training_step"}
    assert all(value == value for record in callback.history for value in [record["weight_mean"]])


@pytest.mark.parametrize("name", METHODS)
def test_a_fit_that_goes_on_from_the_end_of_another_has_its_results(name, tmp_path):
    """A job that is queued again after its last step runs the whole script once more."""
    first = METHODS[name]()
    trainer = make_trainer([first])
    trainer.fit(zoo.AdamCosine(), *loaders())
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    again = METHODS[name]()
    module = fit(zoo.AdamCosine, [again], ckpt_path=tmp_path / "end.ckpt")
    assert_identical(module.state_dict(), trainer.lightning_module.state_dict())
    assert again.history == first.history
    assert (again.clock.phase, again.clock.in_warmup) == (first.clock.phase, first.clock.in_warmup)
    if isinstance(first.weighting, BaseWeighting):
        assert_same(again.weighting.state_dict(), first.weighting.state_dict())
    third = METHODS[name]()
    once_more = make_trainer([again])
    once_more.fit(zoo.AdamCosine(), *loaders(), ckpt_path=tmp_path / "end.ckpt")
    once_more.save_checkpoint(tmp_path / "again.ckpt")
    fit(zoo.AdamCosine, [third], ckpt_path=tmp_path / "again.ckpt")
    assert third.history == first.history
    if name == "law_search":
        assert_same(again.agent.full_state(), first.agent.full_state())
        assert_same(again.buffer.state_dict(), first.buffer.state_dict())
    if name == "meta_weight_net":
        assert_identical(again.weight_net.state_dict(), first.weight_net.state_dict())


@pytest.mark.parametrize(("name", "late"), [("law", False), ("law", True), ("co_teaching", False)])
def test_a_fit_that_had_not_chosen_chooses(name, late, tmp_path, monkeypatch):
    """The last checkpoint of an epoch is written before the better network is put into the module."""
    make = {
        "law": lambda: LAWCallback(StrategyAgent(warmup_stages=1, num_stages=5)),
        "co_teaching": lambda: CoTeachingCallback(0.3, keep="best"),
    }
    monkeypatch.setattr(Evaluator, "__call__", lambda self, modules, limit=None: [0.2, 0.7][: len(modules)])
    first, saving = make[name](), ModelCheckpoint(tmp_path, "last", save_on_train_epoch_end=True)
    expected = fit(zoo.AdamCosine, [first, saving]).state_dict()
    if late:  # both networks were last validated at another step
        content = torch.load(tmp_path / "last.ckpt", weights_only=True)
        (state,) = [value for key, value in content["callbacks"].items() if key.startswith("LAW")]
        state["accuracies"][0] -= 1
        torch.save(content, tmp_path / "last.ckpt")
    module = fit(zoo.AdamCosine, [make[name]()], ckpt_path=tmp_path / "last.ckpt")
    assert_identical(module.state_dict(), expected)


class EndingEarly(L.Callback):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        trainer.should_stop = trainer.global_step == 13


@pytest.mark.parametrize("name", ["law_search", "co_teaching", "l2rw", "meta_weight_net"])
def test_a_checkpoint_of_a_fit_that_had_ended_early_is_refused(name, tmp_path):
    """The reference, the peer and the clean data are let go of when a fit ends."""
    trainer = make_trainer([METHODS[name](), EndingEarly()])
    trainer.fit(zoo.AdamCosine(), *loaders())
    trainer.save_checkpoint(tmp_path / "ended.ckpt")
    with pytest.raises(MisconfigurationException, match="written after its fit had ended early"):
        fit(zoo.AdamCosine, [METHODS[name]()], ckpt_path=tmp_path / "ended.ckpt")


@pytest.mark.parametrize("pair", [("l2rw", "focal"), ("focal", "law_apply"), ("law_search", "co_teaching")])
def test_two_methods_at_once_are_refused(pair):
    with pytest.raises(MisconfigurationException, match=r"has 2 callbacks that weight samples.*give it one"):
        fit(zoo.AdamCosine, [METHODS[name]() for name in pair])


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("l2rw", "meta_weight_net")])
def test_looking_at_the_labels_changes_nothing(name):
    train, val = loaders()
    data, left = L.LightningDataModule.from_datasets(train.dataset, val.dataset, batch_size=16), []
    known = [(sample, index % 5 == 0) for index, sample in enumerate(make_data(60, seed=1))]
    data.analysis_dataloader = lambda: DataLoader(known, 20)  # batches, and whose labels are wrong
    for analyse in (False, True):
        callback = METHODS[name]()
        callback.analyse_labels = analyse
        L.seed_everything(3, verbose=False)
        module = zoo.AdamCosine()
        make_trainer([callback]).fit(module, datamodule=data)
        for record in callback.history:
            means = [record.pop(key) for key in ("weight_clean", "weight_wrong") if key in record]
            for key in ("weight_clean_quantiles", "weight_wrong_quantiles") if analyse else ():
                del record[key]
            assert len(means) == 2 * analyse
            assert all(0 <= mean < 2 for mean in means)
            assert all(means) or not name.startswith("law")
        left.append(outcome(module, callback))
    assert_same(*left)


@pytest.mark.parametrize("name", METHODS)
def test_a_callback_can_be_used_for_another_fit(name):
    once, twice = METHODS[name](), METHODS[name]()
    fit(zoo.AdamCosine, [twice])
    if name == "law_search":
        return  # its agent goes on learning
    assert_identical(fit(zoo.AdamCosine, [twice]).state_dict(), fit(zoo.AdamCosine, [once]).state_dict())
