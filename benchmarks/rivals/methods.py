"""The methods that are compared: how each finds a strategy, and how that trains a network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import lightning as L
import numpy as np

from law_lightning import LAWCallback
from rivals.lab import Lab
from rivals.law import VARIANTS, Variant, search_law
from rivals.optimisers import Optimiser, best_of, cma_es, cross_entropy, random_search
from rivals.population import population_search
from rivals.schedules import (
    HANDMADE,
    NUM_PARAMETERS,
    Schedule,
    Vector,
    constant,
    linear,
    nothing,
    uniform,
    weighting_callback,
)


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


def _base(lab: Lab) -> Found:
    return Found(lambda seed: [])


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


def _law(lab: Lab, variant: Variant) -> Found:
    agent, history = search_law(lab, variant)
    options = {name: value for name, value in variant.law.items() if name in ("renormalize", "smoothing")}
    curve = [[record["episode"] + 1, record["gain"]] for record in history if record["gain"] is not None]
    return Found(lambda seed: [LAWCallback(agent, mode="apply", **options)], {"episodes": len(history), "curve": curve})


_LINEAR = 2 * NUM_PARAMETERS
BASE = "base"
#: Those that search nothing, and thus are the same in every search.
FIXED = (BASE, *HANDMADE)
METHODS: dict[str, Method] = {
    BASE: _base,
    **{name: partial(_fixed, theta=theta) for name, theta in HANDMADE.items()},
    "uniform": _uniform,
    "handmade": _handmade,
    "random": partial(_optimised, optimiser=random_search, shape=constant, dimensions=NUM_PARAMETERS),
    "cem_constant": partial(_optimised, optimiser=cross_entropy, shape=constant, dimensions=NUM_PARAMETERS),
    "cem_linear": partial(_optimised, optimiser=cross_entropy, shape=linear, dimensions=_LINEAR),
    "cma_constant": partial(_optimised, optimiser=cma_es, shape=constant, dimensions=NUM_PARAMETERS),
    "cma_linear": partial(_optimised, optimiser=cma_es, shape=linear, dimensions=_LINEAR),
    "pbt": _population,
    **{name: partial(_law, variant=variant) for name, variant in VARIANTS.items()},
}
#: Those that look at validation data, and so could be used in LAW's place.
RIVALS = ("handmade", "random", "cem_constant", "cem_linear", "cma_constant", "cma_linear", "pbt")
