"""The methods that are compared: how each finds a strategy, and how that trains a network."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch

from common import quiet
from law_lightning import LAWCallback, StrategyAgent, StrategySearch
from rivals.optimisers import Optimiser, best_of, cma_es, cross_entropy, random_search
from rivals.population import population_search
from rivals.schedules import (
    HANDMADE,
    NUM_PARAMETERS,
    NUM_STAGES,
    WARMUP_STAGES,
    Schedule,
    Vector,
    constant,
    linear,
    nothing,
    uniform,
    weighting_callback,
)
from rivals.training import Lab, evaluate, final_seeds
from tasks import Task

BASE, LAW = "base", "law"
#: Those that look at validation data, and so could be used in LAW's place.
RIVALS = ("general", "handmade", "random", "cem_constant", "cem_linear", "cma_constant", "cma_linear", "pbt")
#: Of LAW's search: episodes between evaluations, and networks that one trains.
EVAL_EVERY, EVAL_SEEDS = 20, 4

Row = dict[str, Any]
#: What says that two rows are of the same search.
KEYS = ("task", "method", "search_seed", "budget", "eval_seeds", "draw")


@dataclass
class Found:
    """What a search ended with.

    Attributes:
        callbacks: makes the callbacks of a training from its seed.
        details: about it, for the record: plain numbers and text.
    """

    callbacks: Callable[[int], list[L.Callback]]
    details: dict[str, Any] = field(default_factory=dict)


Method = Callable[[Lab], Found]


def _scheduled(schedule: Schedule) -> Found:
    return Found(lambda seed: [weighting_callback(schedule)], {"schedule": np.round(schedule, 4).tolist()})


def _fixed(lab: Lab, theta: tuple[float, ...]) -> Found:
    return _scheduled(constant(np.asarray(theta)))


def _uniform(lab: Lab) -> Found:
    return Found(lambda seed: [weighting_callback(uniform(np.random.default_rng([8_004, lab.seed, seed])))])


def _handmade(lab: Lab) -> Found:
    """The best of the constants and of no weighting, on as many seeds as the budget allows, eight at most."""
    names = [*HANDMADE, "none"]
    schedules = [*(constant(np.asarray(theta)) for theta in HANDMADE.values()), nothing()]
    chosen = best_of(lab.validate, schedules, min(lab.budget, 8 * len(names)), 0)
    found = _scheduled(schedules[chosen])
    return Found(found.callbacks, found.details | {"chosen": names[chosen]})


def _optimised(lab: Lab, optimiser: Optimiser, shape: Callable[[Vector], Schedule], dimensions: int) -> Found:
    def objective(vector: Vector, index: int) -> float:
        return lab.validate(shape(vector), index)

    return _scheduled(shape(optimiser(objective, dimensions, lab.budget, lab.random())))


def _population(lab: Lab) -> Found:
    return _scheduled(population_search(lab.advance, lab.validate, lab.budget, lab.random()))


def _general(lab: Lab) -> Found:
    """The rule general, which needs no search."""
    return Found(lambda seed: [LAWCallback(mode="apply")])


def _law(lab: Lab, **settings: Any) -> Found:
    """LAW's own search, of as many episodes as the budget allows; ``settings`` of the agent."""
    agent = StrategyAgent(NUM_STAGES, warmup_stages=WARMUP_STAGES, seed=lab.seed, **settings)
    result = StrategySearch(
        agent,
        episodes=affordable_episodes(lab.budget),
        trainer_kwargs={**lab.task.trainer_kwargs, "callbacks": [lab.ledger]},
        seed=lab.seed,
        eval_every=EVAL_EVERY,
        eval_seeds=EVAL_SEEDS,
        check_seeds=0,
        progress=False,
    ).run(lab.task.make_module, lab.task.make_datamodule)
    curve = [[record["episode"] + 1, record["gain"]] for record in result.history if record["gain"] is not None]
    details = {"episodes": len(result.history), "curve": curve}
    return Found(lambda seed: [LAWCallback(result.agent, mode="apply")], details)


def search_cost(episodes: int) -> float:
    """What LAW's search costs, in trainings: episodes of two networks, which share the warm-up, and evaluations.

    One evaluation, of the plain networks, comes before the first episode, and there is one at the end.
    """
    return episodes * (2 - WARMUP_STAGES / NUM_STAGES) + EVAL_SEEDS * (1 + -(-episodes // EVAL_EVERY))


def affordable_episodes(budget: float) -> int:
    """The most episodes whose search costs no more than ``budget`` trainings; at least one."""
    episodes = 1
    while search_cost(episodes + 1) <= budget:
        episodes += 1
    return episodes


#: Those that search nothing, and thus are the same in every search.
FIXED = (BASE, "general", *HANDMADE)
METHODS: dict[str, Method] = {
    BASE: lambda lab: Found(lambda seed: []),
    "general": _general,
    **{name: partial(_fixed, theta=theta) for name, theta in HANDMADE.items()},
    "uniform": _uniform,
    "handmade": _handmade,
    "random": partial(_optimised, optimiser=random_search, shape=constant, dimensions=NUM_PARAMETERS),
    "cem_constant": partial(_optimised, optimiser=cross_entropy, shape=constant, dimensions=NUM_PARAMETERS),
    "cem_linear": partial(_optimised, optimiser=cross_entropy, shape=linear, dimensions=2 * NUM_PARAMETERS),
    "cma_constant": partial(_optimised, optimiser=cma_es, shape=constant, dimensions=NUM_PARAMETERS),
    "cma_linear": partial(_optimised, optimiser=cma_es, shape=linear, dimensions=2 * NUM_PARAMETERS),
    "pbt": _population,
    LAW: _law,
    "law_training_accuracy": partial(_law, phase_accuracy="training"),
    "law_from_general": partial(_law, init="general", renormalize=True, features=["margin"]),
}


@dataclass(frozen=True)
class Job:
    """One search and its evaluation.

    Attributes:
        task: the task.
        method: a key of METHODS.
        search_seed: number of the search.
        budget: trainings that it may cost.
        eval_seeds: fresh seeds to judge it on.
    """

    task: Task
    method: str
    search_seed: int
    budget: int
    eval_seeds: int

    @property
    def key(self) -> tuple[Any, ...]:
        """The KEYS of the job's row."""
        return self.task.name, self.method, self.search_seed, self.budget, self.eval_seeds, self.task.draw


def run_job(job: Job) -> Row:
    """Search, then train on the fresh seeds."""
    quiet()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        lab = Lab(job.task, job.search_seed, job.budget, Path(folder))
        began = time.perf_counter()
        found = METHODS[job.method](lab)
        searched = time.perf_counter()
        outcomes = [
            evaluate(job.task, lab.datamodule, seed, found.callbacks(seed))
            for seed in final_seeds(job.eval_seeds, job.task.draw)
        ]
        return {
            **dict(zip(KEYS, job.key, strict=True)),
            "steps": lab.steps,
            "steps_per_training": lab.steps_per_training,
            "search_s": round(searched - began, 1),
            "eval_s": round(time.perf_counter() - searched, 1),
            **{key: [outcome[key] for outcome in outcomes] for key in outcomes[0]},
            **found.details,
        }
