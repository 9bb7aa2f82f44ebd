import pytest
import torch
from lightning import LightningDataModule
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from law_lightning import LAWCallback, ReplayBuffer, StrategyAgent
from law_lightning.data import DigitsDataModule
from law_lightning.models import MLP
from law_lightning.search import loop
from law_lightning.search.episodes import episode_seed, run_episode
from law_lightning.search.gain import Gain
from law_lightning.search.workers import Workers
from naive_ddpg import same
from run_folders import rows
from search_parts import TRAINER, Plateau, count_steps, everything, make_data, make_module
from search_parts import new_search as search
from test_promises import assert_same

BIAS = [-3.0, 0.0, 0.0, 0.0, 0.5]


def test_what_a_search_returns_and_writes(tmp_path, capsys):
    logger, before = CSVLogger(tmp_path / "logs", name="", version=""), torch.get_rng_state()
    result = search(tmp_path / "run", logger=logger, progress=True, check_seeds=2).run(make_module, make_data)
    assert torch.equal(torch.get_rng_state(), before)
    assert "search: 100%" in capsys.readouterr().err
    assert len({record["seed"] for record in result.history}) == 4
    assert [record["gain"] is not None for record in result.history] == [False, True, False, True]
    assert result.best_gain >= max(record["gain"] for record in result.history if record["gain"] is not None)
    assert len(result.buffer) == 4 * 3
    assert_same(StrategyAgent.load(tmp_path / "run/strategy.safetensors").full_state(), result.agent.full_state())
    assert_same(ReplayBuffer.load(tmp_path / "run/replay.pt").state_dict(), result.buffer.state_dict())
    returns = [record["return"] for record in result.history]
    assert [float(row["return"]) for row in rows(tmp_path / "run/metrics.csv")] == returns
    logged = rows(tmp_path / "logs/metrics.csv")
    assert [row["law/reward"] != "" for row in logged].count(True) == 4 * 4
    assert {"agent/critic_loss", "law/theta/loss", "search/return", "search/gain", "search/best_gain"} <= set(logged[0])
    assert float(logged[-1]["search/gain_low"]) == result.gain.low


def test_the_gain_is_that_of_fresh_trainings():
    """An independent count: train plainly and with the strategy from the evaluation seeds."""
    result = search(episodes=2, bias=BIAS).run(make_module, make_data)
    gains = []
    for index in range(2):
        given = episode_seed(0, "evaluate", index), make_module, make_data(), TRAINER
        law = run_episode(*given, LAWCallback(result.agent, mode="apply"))
        gains.append((law - run_episode(*given, None)).mean().item())
    assert sum(gains) / 2 == pytest.approx(result.best_gain)
    assert any(gains)


def test_the_gain_is_measured_on_fresh_seeds_once(tmp_path, monkeypatch):
    result = search(tmp_path, episodes=2, bias=BIAS, check_seeds=3).run(make_module, make_data)
    gains = []
    for index in range(3):
        given = episode_seed(0, "check", index), make_module, make_data(), TRAINER
        law = run_episode(*given, LAWCallback(result.agent, mode="apply"))
        gains.append(law - run_episode(*given, None))
    assert result.gain == Gain.of(torch.stack(gains), candidates=2)
    assert any(gain.any() for gain in gains)
    assert (tmp_path / "gain.txt").read_text() == f"{result.gain}\n"
    steps = count_steps(monkeypatch)
    assert search(tmp_path, episodes=2, check_seeds=3).run(make_module, make_data).gain == result.gain
    assert steps == []
    assert search(tmp_path, episodes=2, check_seeds=2).run(make_module, make_data).gain.seeds == 2


def test_workers_share_the_seeds_of_the_check():
    """The second of two leaves its part; the first joins both to what one worker alone finds."""
    gathered = []

    class Worker(Workers):
        size = 2

        def __init__(self, rank):
            self.rank = rank

        def gather(self, mine):
            gathered.append(mine)
            return gathered[::-1]

    gains = []
    for workers in (Workers(), Worker(1), Worker(0)):
        begun = search(bias=BIAS, check_seeds=3)
        parts = (begun.options, begun.agent, begun._state, make_module, make_data(), lambda event, content: None)
        loop.SearchLoop(workers, *parts)._check()
        gains.append(begun._state.gain)
    assert [sorted(part) for part in gathered] == [[1], [0, 2]]
    assert gains[0] == gains[2]
    assert gains[0]["seeds"] == 3


@pytest.mark.parametrize(("bias", "trained"), [(None, 0), (BIAS, 2)])
def test_a_new_strategy_is_not_compared_with_itself(bias, trained, monkeypatch):
    """Its networks are plain ones; those of another are trained plainly too."""
    plain = []

    def counted(*args, law, **kwargs):
        plain.append(law is None)
        return run_episode(*args, law=law, **kwargs)

    monkeypatch.setattr(loop, "run_episode", counted)
    search(episodes=1, bias=bias).run(make_module, make_data)
    assert sum(plain) == trained


@pytest.mark.parametrize("stop", [1, 3])
def test_a_search_stopped_within_an_episode_goes_on(tmp_path, stop):
    whole, calls = everything(search().run(make_module, make_data)), []

    def failing_module():
        calls.append(1)
        if len(calls) == 2 * (stop + 1):
            raise ZeroDivisionError
        return make_module()

    stopped = search(tmp_path)
    with pytest.raises(ZeroDivisionError):
        stopped.run(failing_module, make_data)
    assert 0 < len(stopped.history) < 4
    torch.manual_seed(99)
    assert_same(everything(search(tmp_path).run(make_module, make_data)), whole)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"capacity": 3}, "capacity must hold an episode of every worker, 4 transitions"),
        ({"capacity": 7, "workers": 2}, "capacity must hold an episode of every worker, 8 transitions"),
        ({"seed_pool": -1}, "seed_pool must be at least 0"),
        ({"keep": "first"}, "keep must be 'best' or 'last'"),
        ({"check_seeds": 1}, "check_seeds must be at least 2"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        search(**options)


def test_objects_in_place_of_functions_are_named():
    for given, name in (
        ((make_module(), make_data), r"make_module must be a function .* lambda: \w+\(\.\.\.\), but it is a"),
        ((make_module, make_data()), "make_datamodule must be a function"),
        ((make_module, "data"), r"make_datamodule must be a function .* it is a str"),
    ):
        with pytest.raises(ValueError, match=name):
            search().run(*given)
    same = make_module()
    with pytest.raises(MisconfigurationException, match="make_module returned the network of an earlier episode"):
        search().run(lambda: same, make_data)


def test_a_search_with_a_capacity_goes_on_where_it_ended(tmp_path):
    """Updates learn from the newest transitions alone; the run folder keeps all, so that nothing is lost."""
    whole = search(capacity=5).run(make_module, make_data)
    search(tmp_path, episodes=2, capacity=5).run(make_module, make_data)
    again = search(tmp_path, capacity=5).run(make_module, make_data)
    assert_same(everything(again), everything(whole))
    assert len(whole.buffer) == 4 * 3
    unlimited = search().run(make_module, make_data)
    assert unlimited.history[0] == whole.history[0]
    assert unlimited.history[-1]["critic_loss"] != whole.history[-1]["critic_loss"]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"trainer_kwargs": TRAINER | {"max_epochs": 5}}, "trainer_kwargs"),
        ({"members": 1}, r"\(its agent has members=3\)"),
        ({"seed": 1}, "seed"),
        ({"keep": "last"}, "keep"),
    ],
)
def test_a_run_folder_of_another_search(tmp_path, options, named):
    search(tmp_path, episodes=1).run(make_module, make_data)
    with pytest.raises(MisconfigurationException, match=rf"other settings .*{named}"):
        search(tmp_path, **options).run(make_module, make_data)


def test_the_last_strategy_is_kept_if_it_is_to_be(tmp_path):
    kept = search(tmp_path, episodes=2, keep="last")
    result, state = kept.run(make_module, make_data), kept._state
    assert same(result.agent.full_state(), state.agent)
    assert result.best_gain == state.history[-1]["gain"]
    assert same(StrategyAgent.load(tmp_path / "strategy.safetensors").full_state(), state.agent)


class NoValidation(DigitsDataModule):
    val_dataloader = LightningDataModule.val_dataloader


@pytest.mark.parametrize(
    ("epochs", "data", "match"),
    [
        (1, make_data, "2 optimizer steps, fewer than its 4 stages"),
        (4, lambda: NoValidation(train_size=60, val_size=100, batch_size=30), "no validation data"),
        (-1, make_data, r"max_epochs=-1|must end"),
    ],
)
def test_what_is_wrong_is_named_before_anything_is_trained(epochs, data, match, monkeypatch):
    steps = count_steps(monkeypatch)
    with pytest.raises((MisconfigurationException, ValueError), match=match):
        search(trainer_kwargs=TRAINER | {"max_epochs": epochs}).run(make_module, data)
    assert steps == []


def test_a_rate_that_follows_the_validation_loss_and_callbacks_of_the_trainer(tmp_path):
    for episodes in (1, 2):
        resumed = search(tmp_path, episodes=episodes, trainer_kwargs=TRAINER | {"callbacks": [Timer()]})
        result = resumed.run(lambda: Plateau(MLP((1, 8, 8), 10, hidden=(16,))), make_data)
        assert len(result.history) == episodes
