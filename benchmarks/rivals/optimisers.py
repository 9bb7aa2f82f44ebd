"""Searches over a box, knowing only noisy values of points: random search, cross-entropy method, CMA-ES.

Values depend on a seed, and differences between seeds are larger than those between points. So every search compares
points on seeds that they share. The last part of each budget compares the final candidates, the origin among them
(weights of one: what no search may end below), on seeds of their own.

Where theta favours high losses there is a wide plateau that gains nothing, and a distribution around the origin may
well settle there: so the cross-entropy method and CMA-ES begin at the best of a few random points.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from rivals.schedules import BOUND, Vector

#: Value of a point under the seed of this index; greater is better.
Objective = Callable[[Vector, int], float]
#: (objective, dimensions, budget in values, random numbers) -> the point found.
Optimiser = Callable[[Objective, int, int, np.random.Generator], Vector]

FINALISTS = 3


def best_of(objective: Objective, points: list[Vector], budget: int, first_seed: int) -> int:
    """The index of the point with the best mean over as many shared seeds as the budget allows, at least one."""
    repeats = max(1, budget // len(points))
    seeds = range(first_seed, first_seed + repeats)
    return int(np.argmax([np.mean([objective(point, seed) for seed in seeds]) for point in points]))


def spread(dimensions: int, count: int, rng: np.random.Generator) -> list[Vector]:
    """The origin, and points of random direction and random size; uniform ones would hardly ever lie near it."""
    sizes = rng.uniform(0.0, 1.0, (count - 1, 1))
    return [np.zeros(dimensions), *(sizes * rng.uniform(-BOUND, BOUND, (count - 1, dimensions)))]


def random_search(objective: Objective, dimensions: int, budget: int, rng: np.random.Generator) -> Vector:
    """Many points once, the better ones again and again (successive halving); the first round takes half the budget."""
    count = budget // 2
    points = spread(dimensions, count, rng)
    values: list[list[float]] = [[objective(point, 0)] for point in points]
    alive = list(range(count))
    left, seed, repeats = budget - count, 1, 1
    third = left // 3
    for rung in range(3):
        share = left if rung == 2 else third
        alive.sort(key=lambda index: -float(np.mean(values[index])))
        alive = alive[: max(1, share // repeats)]
        rounds = share // len(alive)
        for index in alive:
            values[index] += [objective(points[index], seed + offset) for offset in range(rounds)]
        left -= rounds * len(alive)
        seed, repeats = seed + rounds, 2 * repeats
    return points[max(alive, key=lambda index: float(np.mean(values[index])))]


class _CrossEntropy:
    """A normal distribution that moves to the best three tenths of each generation; asked and told as CMA-ES is."""

    def __init__(self, favourite: Vector, deviation: float, popsize: int, rng: np.random.Generator) -> None:
        self.favourite, self._deviation = favourite, np.full(len(favourite), deviation)
        self.popsize, self._rng = popsize, rng

    def ask(self) -> list[Vector]:
        draws = self.favourite + self._deviation * self._rng.standard_normal((self.popsize, len(self.favourite)))
        return list(np.clip(draws, -BOUND, BOUND))

    def tell(self, points: list[Vector], losses: list[float]) -> None:
        elites = max(1, round(0.3 * self.popsize))
        chosen = np.stack([points[index] for index in np.argsort(losses)[:elites]])
        # Some of the old distribution stays, and a little width: few elites of a noisy value would shrink it too soon.
        self.favourite = 0.2 * self.favourite + 0.8 * chosen.mean(0)
        self._deviation = np.maximum(0.4 * self._deviation + 0.6 * chosen.std(0), 0.05 * BOUND)

    def stop(self) -> bool:
        return False


def _generations(
    objective: Objective, dimensions: int, budget: int, rng: np.random.Generator, make: Callable[[Vector], Any]
) -> Vector:
    """Generations of a distribution that begins at the best of random points; all points of one share their seed."""
    look = budget // 4
    points = spread(dimensions, look, rng)
    values = [objective(point, 0) for point in points]
    strategy = make(points[int(np.argmax(values))])
    left, generation = budget - look, 1
    while left - strategy.popsize >= max(FINALISTS, budget // 8) and not strategy.stop():
        points = strategy.ask()
        values = [objective(point, generation) for point in points]
        strategy.tell(points, [-value for value in values])
        left, generation = left - len(points), generation + 1
    finalists = [strategy.favourite, points[int(np.argmax(values))], np.zeros(dimensions)]
    return finalists[best_of(objective, finalists, left, generation)]


def cross_entropy(objective: Objective, dimensions: int, budget: int, rng: np.random.Generator) -> Vector:
    """The cross-entropy method."""
    population = min(10, budget // 4)
    return _generations(
        objective, dimensions, budget, rng, lambda start: _CrossEntropy(start, BOUND / 3, population, rng)
    )


def cma_es(objective: Objective, dimensions: int, budget: int, rng: np.random.Generator) -> Vector:
    """CMA-ES as the package ``cma`` has it, with its own settings for everything but the first step size."""
    import cma

    options = {
        "bounds": [-BOUND, BOUND],
        "randn": lambda *shape: rng.standard_normal(shape),
        "seed": np.nan,  # its own way is to seed numpy's global state
        "verbose": -9,
        "verb_log": 0,
    }

    class CMA(cma.CMAEvolutionStrategy):  # type: ignore[misc]
        favourite = property(lambda self: np.asarray(self.result.xfavorite))

    return _generations(objective, dimensions, budget, rng, lambda start: CMA(start, BOUND / 3, options))
