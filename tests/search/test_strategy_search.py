import csv

import lightning as L
import pytest
import torch
from lightning import LightningDataModule
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from law_lightning import LAWCallback, ReplayBuffer, StrategyAgent
from law_lightning.data import DigitsDataModule
from law_lightning.models import MLP, ImageClassifier
from law_lightning.search.episodes import episode_seed, run_episode
from naive_ddpg import same
from search_parts import count_steps, everything, make_data, make_module
from search_parts import new_search as search
from test_promises import assert_same

BIAS = [-3.0, 0.0, 0.0, 0.0, 0.5]


def test_what_a_search_returns_and_writes(tmp_path):
    logger = CSVLogger(tmp_path / "logs", name="", version="")
    result = search(tmp_path / "run", logger=logger).run(make_module, make_data)
    assert len(result.history) == 4
    assert len({record["seed"] for record in result.history}) == 4
    assert [record["gain"] is not None for record in result.history] == [False, True, False, True]
    assert result.best_gain >= max(record["gain"] for record in result.history if record["gain"] is not None)
    assert len(result.buffer) == 4 * 3
    assert_same(StrategyAgent.load(tmp_path / "run/strategy.safetensors").full_state(), result.agent.full_state())
    assert_same(ReplayBuffer.load(tmp_path / "run/replay.pt").state_dict(), result.buffer.state_dict())
    with (tmp_path / "run/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["return"]) for row in rows] == [record["return"] for record in result.history]
    with (tmp_path / "logs/metrics.csv").open() as file:
        logged = list(csv.DictReader(file))
    assert [row["law/reward"] != "" for row in logged].count(True) == 4 * 4
    assert {"agent/critic_loss", "law/theta/loss", "search/return", "search/gain", "search/best_gain"} <= set(logged[0])


def test_the_gain_is_that_of_fresh_trainings():
    """An independent count: train plainly and with the strategy from the evaluation seeds."""
    result = search(episodes=2, bias=BIAS).run(make_module, make_data)
    data, options = make_data(), {"max_epochs": 4, "accelerator": "cpu"}
    gains = []
    for index in range(2):
        seed = episode_seed(0, "evaluate", index)
        plain = run_episode(seed, make_module, data, options, None)
        law = run_episode(seed, make_module, data, options, LAWCallback(result.agent, mode="apply"))
        gains.append(law - plain)
    assert sum(gains) / 2 == pytest.approx(result.best_gain)
    assert any(gains)


def test_a_new_strategy_is_not_compared_with_itself(monkeypatch):
    """Its networks are plain ones; those of another are trained plainly too, if only to the first weighted stage."""
    plain = []
    from law_lightning.search import loop

    def counted(seed, make_module, datamodule, options, law, *rest):
        plain.append(law is None)
        return run_episode(seed, make_module, datamodule, options, law, *rest)

    monkeypatch.setattr(loop, "run_episode", counted)
    search(episodes=1).run(make_module, make_data)
    assert sum(plain) == 0
    for options in ({}, {"trainer_kwargs": {"max_epochs": 4, "accelerator": "cpu", "callbacks": [StopEarly()]}}):
        plain.clear()
        search(episodes=1, bias=BIAS, **options).run(make_module, make_data)
        assert sum(plain) == 2


class StopEarly(L.Callback):
    """Ends a training before its first weighted stage has."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        trainer.should_stop = trainer.global_step >= 3


class StopError(Exception):
    pass


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_search_stopped_within_an_episode_goes_on(tmp_path, stop):
    whole = everything(search(tmp_path / "a").run(make_module, make_data))
    calls = []

    def failing_module():
        calls.append(1)
        if len(calls) == 2 * (stop + 1):
            raise StopError
        return make_module()

    stopped = search(tmp_path / "b")
    with pytest.raises(StopError):
        stopped.run(failing_module, make_data)
    assert 0 < len(stopped.history) < 4
    torch.manual_seed(99)
    assert_same(everything(search(tmp_path / "b").run(make_module, make_data)), whole)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_capacity_must_hold_an_episode_of_every_worker(workers):
    with pytest.raises(ValueError, match=f"capacity must hold an episode of every worker, {4 * workers} transitions"):
        search(capacity=4 * workers - 1, workers=workers)
    with pytest.raises(ValueError, match="seed_pool must be at least 0"):
        search(seed_pool=-1)


def test_a_search_with_a_capacity_goes_on_where_it_ended(tmp_path):
    """Updates learn from the newest transitions alone; the run folder keeps all, so that nothing is lost."""
    run = {"capacity": 5}
    whole = search(tmp_path / "whole", episodes=4, **run).run(make_module, make_data)
    search(tmp_path / "halves", episodes=2, **run).run(make_module, make_data)
    again = search(tmp_path / "halves", episodes=4, **run).run(make_module, make_data)
    assert_same(everything(again), everything(whole))
    assert len(whole.buffer) == 4 * 3
    unlimited = search(episodes=4).run(make_module, make_data)
    assert unlimited.history[0] == whole.history[0]
    assert unlimited.history[-1]["critic_loss"] != whole.history[-1]["critic_loss"]


def test_a_run_folder_of_another_search(tmp_path):
    search(tmp_path, episodes=1).run(make_module, make_data)
    with pytest.raises(MisconfigurationException, match=r"other settings .*trainer_kwargs"):
        search(tmp_path, trainer_kwargs={"max_epochs": 5, "accelerator": "cpu"}).run(make_module, make_data)
    with pytest.raises(MisconfigurationException, match=r"other settings \(its agent has members=3\)"):
        search(tmp_path, members=1).run(make_module, make_data)
    with pytest.raises(MisconfigurationException, match=r"other settings .*seed"):
        search(tmp_path, seed=1).run(make_module, make_data)
    with pytest.raises(MisconfigurationException, match=r"other settings .*keep"):
        search(tmp_path, keep="last").run(make_module, make_data)


def test_the_last_strategy_is_kept_if_it_is_to_be(tmp_path):
    kept = search(tmp_path / "last", episodes=2, keep="last")
    result = kept.run(make_module, make_data)
    state = kept._state
    assert same(result.agent.full_state(), state.agent)
    assert result.best_gain == state.history[-1]["gain"]
    assert same(StrategyAgent.load(tmp_path / "last/strategy.safetensors").full_state(), state.agent)
    with pytest.raises(MisconfigurationException, match=r"other settings .*keep"):
        search(tmp_path / "last", episodes=2).run(make_module, make_data)
    with pytest.raises(ValueError, match="keep must be 'best' or 'last'"):
        search(keep="first")


def test_a_progress_bar_and_the_callers_random_state(capsys):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    search(episodes=1, progress=True).run(make_module, make_data)
    assert torch.equal(torch.get_rng_state(), before)
    assert "search" in capsys.readouterr().err


def test_what_is_wrong_comes_to_light_before_anything_is_trained(monkeypatch):
    steps = count_steps(monkeypatch)

    class NoValidation(DigitsDataModule):
        val_dataloader = LightningDataModule.val_dataloader

    for options, data, match in [
        ({"max_epochs": 1}, make_data, "2 optimizer steps, fewer than its 4 stages"),
        ({"max_epochs": 4}, lambda: NoValidation(train_size=60, val_size=100, batch_size=30), "no validation data"),
    ]:
        with pytest.raises(MisconfigurationException, match=match):
            search(trainer_kwargs={"accelerator": "cpu", **options}).run(make_module, data)
    with pytest.raises((MisconfigurationException, ValueError), match=r"max_epochs=-1|must end"):
        search(trainer_kwargs={"accelerator": "cpu", "max_epochs": -1}).run(make_module, make_data)
    assert steps == []


def test_a_rate_that_follows_the_validation_loss():
    class Plateau(ImageClassifier):
        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "val/loss"}}

    result = search(episodes=1).run(lambda: Plateau(MLP((1, 8, 8), 10, hidden=(16,))), make_data)
    assert len(result.history) == 1


def test_callbacks_of_the_trainer_do_not_hinder_resuming(tmp_path):
    for episodes in (1, 2):
        options = {"max_epochs": 4, "accelerator": "cpu", "callbacks": [Timer()]}
        result = search(tmp_path, episodes=episodes, trainer_kwargs=options).run(make_module, make_data)
        assert len(result.history) == episodes
