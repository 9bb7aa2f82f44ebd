"""Population-based training over stages, which knows neither networks nor files: see ``methods.py`` for those.

All members of a generation train at once from one seed. Every few stages the worst quarter continues from the state
of a member of the best quarter, with its theta moved at random. The winner's theta of every stage is where the next
generation begins.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from rivals.optimisers import FINALISTS, best_of, spread
from rivals.schedules import BOUND, NUM_PARAMETERS, NUM_STAGES, WARMUP_STAGES, Schedule, nothing

#: (state or None, index of the seed, schedule, first stage, end) -> (state at the end, accuracy there).
Advance = Callable[[Any, int, Schedule, int, int], tuple[Any, float]]


@dataclass
class Member:
    """One of the population: a network in training, and its theta of all stages, past and planned."""

    schedule: Schedule
    state: Any
    accuracy: float = 0.0


def population_search(
    advance: Advance,
    objective: Callable[[Schedule, int], float],
    budget: int,
    rng: np.random.Generator,
    population: int = 12,
    every: int = 3,
    deviation: float = BOUND / 3,
    decay: float = 0.8,
) -> Schedule:
    """Search a schedule.

    Args:
        advance: trains on for some stages.
        objective: accuracy of a whole training with a schedule, under the seed of an index.
        budget: trainings that all may cost together.
        rng: for the moves.
        population: members of a generation; the first has more, at constants from all over the box, for a third of
            the budget.
        every: stages between two selections.
        deviation: of the first moves.
        decay: factor on it after each generation but the first.
    """
    searching = budget - max(FINALISTS, budget // 8)
    warmup = WARMUP_STAGES / NUM_STAGES
    wide = max(3, searching // 3)
    population = max(2, min(population, searching // 4))
    left = float(searching)
    incumbent, winners = nothing(), []
    while left >= (cost := warmup + (1 - warmup) * (population if winners else wide)):
        left -= cost
        generation = len(winners)
        # Weights are one in the warm-up: one network trains for all.
        shared, _ = advance(None, generation, incumbent, 0, WARMUP_STAGES)
        if winners:
            plans = [_moved(incumbent, 0, deviation * (index > 0), rng) for index in range(population)]
            deviation *= decay
        else:
            plans = [incumbent + point for point in spread(NUM_PARAMETERS, wide, rng)]
        members = [Member(plan, shared) for plan in plans]
        for start in range(WARMUP_STAGES, NUM_STAGES, every):
            stop = min(start + every, NUM_STAGES)
            for member in members:
                member.state, member.accuracy = advance(member.state, generation, member.schedule, start, stop)
            if stop < NUM_STAGES:
                _select(members, stop, deviation / 2, rng)
        incumbent = max(members, key=lambda member: member.accuracy).schedule
        winners.append(incumbent)
    # A winner may owe it to its seed; the mean of the later ones does less so.
    finalists = [incumbent, np.mean(winners[len(winners) // 2 :], axis=0), nothing()]
    return finalists[best_of(objective, finalists, budget - searching, len(winners))]


def _moved(schedule: Schedule, stage: int, deviation: float, rng: np.random.Generator) -> Schedule:
    """The schedule, moved by one random offset from ``stage`` on."""
    moved = schedule.copy()
    moved[stage:] = np.clip(moved[stage:] + deviation * rng.standard_normal(moved.shape[1]), -BOUND, BOUND)
    return moved


def _select(members: list[Member], stage: int, deviation: float, rng: np.random.Generator) -> None:
    """Replace the worst quarter by copies of the best, whose theta moves from ``stage`` on."""
    members.sort(key=lambda member: -member.accuracy)
    quarter = max(1, len(members) // 4)
    for index in range(len(members) - quarter, len(members)):
        better = members[rng.integers(quarter)]
        members[index] = Member(_moved(better.schedule, stage, deviation, rng), better.state)
