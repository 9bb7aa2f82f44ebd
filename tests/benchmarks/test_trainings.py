import numpy as np
import pytest
import torch
from tiny import make_task

from law_lightning import LAWCallback, StrategyAgent
from rivals import methods
from rivals.methods import METHODS, Job, affordable_episodes, run_job, search_cost
from rivals.population import population_search
from rivals.schedules import constant, nothing, uniform, weighting_callback
from rivals.training import Lab, accuracy, evaluate, search_seed, split_of, train
from zoo import assert_identical, differ


@pytest.fixture
def lab(tmp_path):
    return Lab(make_task(), search=0, budget=12, folder=tmp_path)


@pytest.fixture
def taken(monkeypatch):
    """A naive count of steps: one entry for each step of any optimizer."""
    entries, original = [], torch.optim.SGD.step
    monkeypatch.setattr(torch.optim.SGD, "step", lambda *args, **more: entries.append(1) or original(*args, **more))
    return entries


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
    assert_identical(applied.state_dict(), replayed.state_dict())


def test_no_weights_train_plainly_and_so_does_an_evaluation(lab):
    callbacks = [], [weighting_callback(nothing())], [weighting_callback(constant(np.ones(5)))]
    plain, same, other = (train(lab.task, lab.datamodule, 5, each).state_dict() for each in callbacks)
    assert_identical(plain, same)
    assert differ(plain, other)
    outcome = evaluate(lab.task, lab.datamodule, search_seed(0, 1), [])  # which leaves the training as it is
    assert outcome["val_last"] == lab.validate(nothing(), 1)
    plain = train(lab.task, lab.datamodule, search_seed(0, 1), [])
    assert outcome["acc_last"] == accuracy(plain, *split_of(lab.datamodule, "test"))
    assert 0 <= outcome["wrong_fitted"] <= 1


@pytest.mark.parametrize("batch_size", [16, 12])  # stages that end with an epoch, and in its midst
def test_a_training_in_parts_ends_as_one_in_one_piece(tmp_path, batch_size):
    lab = Lab(make_task(epochs=4, batch_size=batch_size), search=0, budget=12, folder=tmp_path)
    schedule = uniform(np.random.default_rng(1))
    state = None
    for start, stop in [(0, 2), (2, 5), (5, 13), (13, 20)]:
        state, accuracy = lab.advance(state, 3, schedule, start, stop)
    assert accuracy == lab.validate(schedule, 3)
    assert lab.steps == 2 * lab.steps_per_training


def test_steps_of_schedules_are_all_counted(lab, taken):
    lab.validate(nothing(), 0)
    assert lab.steps == len(taken) == lab.steps_per_training == 20
    population_search(lab.advance, lab.validate, 12, lab.random())
    assert lab.steps == len(taken) <= 13 * 20


def test_steps_of_laws_search_are_all_counted(lab, taken, monkeypatch):
    monkeypatch.setattr(methods, "EVAL_EVERY", 2)
    monkeypatch.setattr(methods, "EVAL_SEEDS", 1)
    found = METHODS["law"](lab)
    assert lab.steps == len(taken) == round(search_cost(4) * lab.steps_per_training)
    assert [episode for episode, _ in found.details["curve"]] == [2, 4]
    for budget in (30, 60, 120):
        assert search_cost(affordable_episodes(budget)) <= budget < search_cost(affordable_episodes(budget) + 1)


@pytest.mark.parametrize("method", ["base", "constant_2", "uniform", "cem_linear", "pbt"])
def test_every_kind_of_method_gives_a_whole_row(method):
    row = run_job(Job(make_task(), method, 0, 12, 2))
    assert row["steps"] <= 12 * row["steps_per_training"]
    assert (row["steps"] > 0) == (method in ("cem_linear", "pbt"))
    assert len(row["acc_last"]) == len(row["acc_best"]) == len(row["wrong_fitted"]) == 2
