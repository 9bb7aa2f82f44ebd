import numpy as np
import pytest
import torch
from tiny import make_task

from law_lightning import LAWCallback, StrategyAgent
from law_lightning.search.episodes import run_episode
from rivals.jobs import Job, run_job
from rivals.lab import Lab, final_seeds, search_seed
from rivals.law import Variant, affordable_episodes, search_cost, search_law
from rivals.methods import METHODS
from rivals.population import population_search
from rivals.schedules import NUM_STAGES, constant, linear, nothing, uniform, weighting_callback
from rivals.training import StepLedger, counted, evaluate, train


@pytest.fixture
def lab(tmp_path):
    return Lab(make_task(), search=0, budget=12, folder=tmp_path)


def equal(first, second):
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


class CountedSteps:
    """A naive count: wraps the step of every optimizer that is made."""

    def __init__(self, monkeypatch):
        self.steps = 0
        original = torch.optim.SGD.step

        def step(optimizer, *args, **kwargs):
            self.steps += 1
            return original(optimizer, *args, **kwargs)

        monkeypatch.setattr(torch.optim.SGD, "step", step)


# -- schedules -------------------------------------------------------------------------------------------------


def test_a_replayed_schedule_trains_as_the_strategy_it_is_of(lab):
    agent = StrategyAgent(seed=3)
    with torch.no_grad():
        for parameter in agent.actor.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    law = LAWCallback(agent, mode="apply")
    applied = train(lab.task, lab.datamodule, 5, [law])
    schedule = np.array([record["theta"] for record in law.history])
    assert np.abs(schedule[2:]).max() > 0.01
    replayed = train(lab.task, lab.datamodule, 5, [weighting_callback(schedule)])
    assert equal(applied, replayed)


def test_no_weights_train_plainly_and_as_the_search_does(lab):
    plain = train(lab.task, lab.datamodule, 5, [])
    assert equal(plain, train(lab.task, lab.datamodule, 5, [weighting_callback(nothing())]))
    assert not equal(plain, train(lab.task, lab.datamodule, 5, [weighting_callback(constant(np.ones(5)))]))
    seed = search_seed(0, 1)
    expected = run_episode(seed, lab.task.make_module, lab.datamodule, lab.task.trainer_kwargs, None)
    assert lab.validate(nothing(), 1) == pytest.approx(expected)


def test_evaluation_leaves_the_training_as_it_is(lab):
    outcome = evaluate(lab.task, lab.datamodule, search_seed(0, 1), [])
    assert outcome["val_last"] == pytest.approx(lab.validate(nothing(), 1))
    assert 0 <= outcome["wrong_fitted"] <= 1


def test_shapes_of_schedules():
    ramp = linear(np.array([0.0] * 5 + [1.7] * 5))
    assert ramp.shape == constant(np.ones(5)).shape == uniform(np.random.default_rng(0)).shape == (20, 5)
    assert ramp[:3, 0].tolist() == [0, 0, 0]
    assert ramp[3, 0] == pytest.approx(0.1)
    assert ramp[-1, 4] == pytest.approx(1.7)


def test_seeds_of_searches_and_of_the_evaluation_never_meet():
    searched = {search_seed(search, index) for search in range(10) for index in range(300)}
    assert len(searched) == 3000
    assert not searched & {seed for draw in range(10) for seed in final_seeds(100, draw)}


# -- pausing ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [16, 12])  # stages that end with an epoch, and in its midst
def test_a_training_in_parts_ends_as_one_in_one_piece(tmp_path, batch_size):
    lab = Lab(make_task(epochs=4, batch_size=batch_size), search=0, budget=12, folder=tmp_path)
    schedule = uniform(np.random.default_rng(1))
    state = None
    for start, stop in [(0, 2), (2, 5), (5, 13), (13, 20)]:
        state, accuracy = lab.advance(state, 3, schedule, start, stop)
    assert accuracy == lab.validate(schedule, 3)
    assert lab.steps == 2 * lab.steps_per_training


# -- counting --------------------------------------------------------------------------------------------------


def test_steps_of_schedules_are_all_counted(lab, monkeypatch):
    naive = CountedSteps(monkeypatch)
    lab.validate(nothing(), 0)
    assert lab.steps == naive.steps == lab.steps_per_training == 20
    population_search(lab.advance, lab.validate, 12, lab.random())
    assert lab.steps == naive.steps
    assert lab.steps <= 13 * 20


def test_steps_of_laws_search_are_all_counted(lab, monkeypatch):
    naive = CountedSteps(monkeypatch)
    lab.budget = 15
    costs = {"eval_every": 2, "eval_seeds": 1}
    _, history = search_law(lab, Variant(search=costs, agent={"epochs": 1}))
    assert lab.steps == naive.steps
    assert lab.steps <= lab.budget * lab.steps_per_training
    assert len(history) > 3


def test_the_plan_of_a_search_is_what_it_costs():
    # Without a pool: plain networks' evaluation, three of the strategy; 25 episodes, each 1.9 networks.
    assert search_cost(25, 0.1, eval_every=10, eval_seeds=4) == pytest.approx(4 * 4 + 25 * 1.9)
    assert search_cost(25, 0.1, eval_every=10, eval_seeds=4, seed_pool=8) == pytest.approx(4 * 4 + 25 * 0.9 + 8)
    for budget in (30, 60, 120):
        costs = {"eval_every": 10, "eval_seeds": 4, "seed_pool": 0}
        episodes = affordable_episodes(budget, 0.1, **costs)
        assert search_cost(episodes, 0.1, **costs) <= budget < search_cost(episodes + 1, 0.1, **costs)


def test_a_ledger_that_grows_is_read_up_to_its_last_whole_line(tmp_path):
    ledger = StepLedger(tmp_path / "steps.txt")
    assert counted(ledger.path) == 0
    ledger.path.write_text("20\n240\n2")
    assert counted(ledger.path) == 260


# -- jobs ------------------------------------------------------------------------------------------------------


@pytest.mark.one_in(2)
@pytest.mark.parametrize("method", ["base", "constant_2", "uniform", "cem_linear", "pbt"])
def test_every_kind_of_method_gives_a_whole_row(tmp_path, method):
    row = run_job(Job(make_task(), method, 0, 12, 2, tmp_path))
    assert row["steps"] <= 12 * row["steps_per_training"]
    assert (row["steps"] > 0) == (method in ("cem_linear", "pbt"))
    assert len(row["acc_last"]) == len(row["acc_best"]) == len(row["wrong_fitted"]) == 2
    if "schedule" in row:
        assert np.array(row["schedule"]).shape == (NUM_STAGES, 5)
    assert list(tmp_path.iterdir()) == []


def test_all_methods_are_trained_on_the_same_seeds(tmp_path):
    rows = [run_job(Job(make_task(), name, seed, 12, 2, tmp_path)) for name, seed in (("base", 0), ("base", 4))]
    assert rows[0]["acc_last"] == rows[1]["acc_last"]
    assert set(METHODS) >= {"law", "random", "cem_constant", "cma_linear", "pbt", "handmade"}
