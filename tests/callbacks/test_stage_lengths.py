"""The stages have the length of the training, or one of their own; where some never come, one warning says so."""

import logging
import warnings

import lightning as L
import pytest
from lightning.pytorch.callbacks import EarlyStopping, GradientAccumulationScheduler
from torch.utils.data import DataLoader, IterableDataset

from law_lightning import LAWCallback, StrategyAgent, WeightingCallback
from law_lightning.callbacks import CoTeachingCallback, L2RWCallback, MetaWeightNetCallback
from zoo import DropoutMLP, fit, loaders, make_data, make_trainer


def law(mode="search", num_stages=5, warmup_stages=1, **kwargs):
    agent = StrategyAgent(num_stages=num_stages, warmup_stages=warmup_stages, episode_noise=2.0)
    return LAWCallback(agent, mode, **kwargs)


def unreached(callback, callbacks=(), data=loaders, **kwargs):
    """The warnings of a fit, 6 batches an epoch, that some stages were not reached."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(DropoutMLP, [callback, *callbacks], data=data, **kwargs)
    found = [str(each.message) for each in caught if "optimizer steps that" in str(each.message)]
    assert len(found) <= 1
    return found[0] if found else None


@pytest.mark.parametrize(
    ("scheduling", "options", "steps", "first"),
    [
        ({0: 2}, {}, 12, True),
        ({0: 4}, {}, 8, True),  # 6 batches are two steps
        ({0: 3, 2: 3}, {"max_steps": 6}, 6, True),
        ({0: 8}, {"max_epochs": 6}, 6, False),
    ],
)
def test_a_scheduler_of_one_accumulation_is_counted(scheduling, options, steps, first):
    callback, scheduler = law("apply"), GradientAccumulationScheduler(dict(scheduling))
    trainer = make_trainer([callback, scheduler] if first else [scheduler, callback], **options)
    trainer.fit(DropoutMLP(), *loaders())
    assert trainer.global_step == callback.schedule.total_steps == steps
    assert [record["step"] for record in callback.history] == list(callback.schedule.boundaries)


class Unsized(IterableDataset):
    def __iter__(self):
        return iter(make_data(92))


class Overstated(Unsized):
    def __len__(self):
        return 300


class Stop(L.Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        trainer.should_stop = trainer.global_step >= self.step


class Reloading(DropoutMLP):
    def train_dataloader(self):
        return DataLoader(make_data(92 if self.trainer.current_epoch == 0 else 32), 16)

    def val_dataloader(self):
        return loaders()[1]


def of(dataset):
    return lambda: (DataLoader(dataset(), 16), loaders()[1])


@pytest.mark.parametrize(
    ("mode", "options", "found"),
    [
        ("apply", {"max_epochs": 1000, "callbacks": [EarlyStopping("val_loss", stopping_threshold=1e9)]}, (6, 6000, 1)),
        ("search", {"max_epochs": 1000, "callbacks": [Stop(9)]}, (10, 6000, 1)),
        ("search", {"callbacks": [Stop(9)]}, (10, 24, 3)),
        ("apply", {"max_steps": 60, "data": of(Unsized)}, (24, 60, 2)),
        ("apply", {"data": of(Overstated)}, (24, 76, 2)),
    ],
)
def test_stages_that_never_come_are_warned_of_once(mode, options, found):
    steps, total, reached = found
    message = unreached(law(mode), **options)
    assert f"took {steps} of the {total} optimizer steps that LAWCallback cut" in message
    assert f"reached {reached} of 5 stages" in message
    assert ("none after the warm-up of 1: every sample weighed 1" in message) == (reached == 1)
    assert "ended before (EarlyStopping, max_time) is right as it is" in message
    assert "give their number: LAWCallback(..., total_steps=...)" in message


def test_data_that_are_loaded_anew_with_fewer_batches():
    callback = WeightingCallback(lambda samples, phase: None, num_stages=5)
    trainer = make_trainer([callback], reload_dataloaders_every_n_epochs=1)
    with pytest.warns(UserWarning, match="took 12 of the 24 optimizer steps that WeightingCallback .* 3 of 5 stages"):
        trainer.fit(Reloading())


@pytest.mark.parametrize("options", [{"max_steps": 17}, {"max_steps": 20, "max_epochs": -1, "data": of(Unsized)}])
def test_a_training_of_its_own_length_is_not_warned_of(options):
    assert unreached(law("apply"), [EarlyStopping("val_loss", patience=99)], **options) is None


@pytest.mark.parametrize(
    "make",
    [
        law,
        lambda **kwargs: WeightingCallback(lambda samples, phase: None, num_stages=5, **kwargs),
        lambda **kwargs: CoTeachingCallback(0.2, num_stages=5, **kwargs),
        lambda **kwargs: L2RWCallback(num_stages=5, **kwargs),
        lambda **kwargs: MetaWeightNetCallback(num_stages=5, **kwargs),
    ],
)
def test_stages_with_a_length_of_their_own(make):
    """They end before an open training does, which then stays in the last stage."""
    callback = make(total_steps=10)
    assert unreached(callback, [Stop(15)], max_epochs=-1) is None
    assert [record["step"] for record in callback.history] == [2, 4, 6, 8, 10]


@pytest.mark.parametrize(
    ("options", "callbacks"),
    [
        ({"max_epochs": -1, "data": of(Unsized)}, [Stop(15)]),
        ({}, [GradientAccumulationScheduler({0: 1, 2: 2})]),
        ({"max_epochs": 1000, "max_time": "00:24:00:00"}, [Stop(13)]),
    ],
)
def test_a_length_of_their_own_where_none_is_known(options, callbacks):
    callback = law("apply", total_steps=12)
    assert unreached(callback, callbacks, **options) is None
    assert len(callback.history) == 5


def test_a_length_of_their_own_that_the_training_does_not_reach():
    assert "took 24 of the 40 optimizer steps" in unreached(law("apply", total_steps=40))


@pytest.mark.parametrize(
    ("options", "total"),
    [
        ({"max_epochs": 100}, 72),  # 6 times 2 epochs of 6 batches
        ({"max_epochs": -1}, 72),
        ({"max_epochs": 4}, 24),
        ({"max_epochs": 100, "accumulate_grad_batches": 2}, 36),
        ({"max_epochs": 100, "val_check_interval": 0.5}, 36),
        ({"max_epochs": 100, "check_val_every_n_epoch": 2}, 144),
        ({"max_epochs": -1, "check_val_every_n_epoch": None, "val_check_interval": 4}, 48),
        ({"max_steps": 100, "data": of(Unsized)}, 100),  # how long two epochs are is not known
    ],
)
def test_with_early_stopping_the_rule_has_weights_before_its_patience_ends(options, total, caplog):
    callback, stopping = LAWCallback(mode="apply"), EarlyStopping("val_loss", patience=2, stopping_threshold=1e9)
    with caplog.at_level(logging.INFO, "lightning.pytorch"):
        fit(DropoutMLP, [callback, stopping], **{"data": loaders, **options})  # it ends at the first validation
    assert callback.schedule.total_steps == total
    assert ("weights begin after" in caplog.text) == (total not in (24, 100))


def test_a_fit_that_stops_with_weights_is_not_warned_of():
    stopping = EarlyStopping("val_loss", patience=2)
    assert unreached(LAWCallback(mode="apply"), [stopping, Stop(10)], max_epochs=100) is None


@pytest.mark.parametrize("callback", [law("apply"), LAWCallback(mode="apply", total_steps=600)], ids=["found", "given"])
def test_other_stages_do_not_follow_early_stopping(callback):
    unreached(callback, [EarlyStopping("val_loss", patience=2), Stop(3)], max_epochs=100)
    assert callback.schedule.total_steps == 600


@pytest.mark.parametrize(
    ("make", "steps"),
    [
        (LAWCallback, True),
        (LAWCallback, 7),
        (lambda: law(num_stages=4, warmup_stages=3, total_steps=50), 3),
        (lambda: LAWCallback("digits_noise40", mode="apply"), True),
        (lambda: CoTeachingCallback(0.2, keep="best"), 2),
    ],
)
def test_fast_dev_run_passes_and_weights(make, steps, caplog):
    callback, used = make(), min(int(steps), 6)
    with caplog.at_level(logging.INFO, "lightning.pytorch"), warnings.catch_warnings():
        warnings.filterwarnings("error", ".*optimizer steps that")
        fit(DropoutMLP, [callback], fast_dev_run=steps)
    assert sum(f"steps, at most {used}, fall into {used} of" in each.message for each in caplog.records) == 1
    assert [record["step"] for record in callback.history] == list(range(1, used + 1))
    stages = [record["stage"] for record in callback.history]
    assert stages == [callback.schedule.stage(step) for step in range(used)]
    if isinstance(callback, LAWCallback):
        assert callback.theta is not None
    if getattr(callback, "mode", None) == "search":
        assert callback.kept == "target" or callback.history[-1]["acc_reference"] > callback.history[-1]["acc_target"]
