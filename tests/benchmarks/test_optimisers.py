import numpy as np
import pytest

from rivals.optimisers import best_of, cma_es, cross_entropy, random_search
from rivals.population import population_search
from rivals.schedules import BOUND, NUM_PARAMETERS, NUM_STAGES, WARMUP_STAGES, linear

OPTIMUM = np.array([-2.0, 0.5, 0.0, 1.0, -1.0])
OPTIMISERS = [random_search, cross_entropy, cma_es]


class Counting:
    """A bowl with a known optimum, noise, and an offset for each seed that is larger than both."""

    def __init__(self, optimum=OPTIMUM, noise=0.02):
        self.optimum, self.noise = optimum, noise
        self.calls = []

    def __call__(self, point, seed):
        assert np.abs(point).max() <= BOUND
        draw = np.random.default_rng([seed, *np.asarray(point, dtype=np.float64).view(np.uint64)]).standard_normal()
        self.calls.append((np.array(point), seed))
        return float(-0.02 * np.sum((point - self.optimum) ** 2) + self.noise * draw + np.sin(12.9 * seed))


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("dimensions", [5, 10])
def test_comes_near_a_known_optimum_within_the_budget(optimiser, dimensions):
    optimum = np.tile(OPTIMUM, dimensions // 5)
    distances = []
    for search in range(5):
        objective = Counting(optimum)
        found = optimiser(objective, dimensions, 120, np.random.default_rng(search))
        assert 108 <= len(objective.calls) <= 120
        distances.append(np.linalg.norm(found - optimum))
    reach = {random_search: 0.9, cross_entropy: 0.5, cma_es: 0.6}[optimiser]
    assert np.median(distances) < reach * np.linalg.norm(optimum)


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_keeps_to_its_budget_and_its_own_random_numbers_and_leaves_what_is_best_already(optimiser):
    np.random.seed(3)  # noqa: NPY002 - the global state is what this is about
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    for budget in (12, 13, 24, 50, 121):
        objective, again = Counting(), Counting()
        found = optimiser(objective, 5, budget, np.random.default_rng(0))
        assert len(objective.calls) <= budget
        assert (found == optimiser(again, 5, budget, np.random.default_rng(0))).all()
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002
    assert np.allclose(optimiser(Counting(np.zeros(5), noise=0.0), 5, 60, np.random.default_rng(0)), 0)


def test_linear_schedules_begin_after_the_warm_up():
    ramp = linear(np.array([0.0] * 5 + [1.7] * 5))  # two stages of warm-up, then 18
    assert ramp.tolist() == [pytest.approx([max(0, stage - 2) / 10] * 5) for stage in range(20)]


def test_candidates_share_their_seeds():
    objective = Counting(noise=0.0)
    cross_entropy(objective, 5, 60, np.random.default_rng(0))
    assert [seed for _, seed in objective.calls][:35] == [0] * 15 + [1] * 10 + [2] * 10
    assert best_of(objective, [np.zeros(5), OPTIMUM, -OPTIMUM], 10, 7) == 1
    assert [seed for _, seed in objective.calls][-9:] == [7, 8, 9] * 3


@pytest.mark.parametrize("search", range(3))
def test_population_finds_a_schedule_that_changes_over_stages(search):
    optimum, spent = np.linspace(-2, 2, NUM_STAGES)[:, None] * np.ones(NUM_PARAMETERS), []

    def advance(state, seed, schedule, start, stop):  # accuracy: how near theta was to each stage's optimum so far
        spent.append((stop - start) / NUM_STAGES)
        total = (state or 0.0) - ((schedule - optimum)[max(start, WARMUP_STAGES) : stop] ** 2).mean(1).sum()
        return total, total

    def whole(schedule, seed=0):
        return advance(None, seed, schedule, 0, NUM_STAGES)[1]

    found = population_search(advance, whole, 120, np.random.default_rng(search))
    assert 105 < sum(spent) <= 120
    assert np.abs(found).max() <= BOUND
    assert whole(found) > whole(optimum[WARMUP_STAGES:].mean() * np.ones_like(found))  # the best constant
    assert whole(found) > 0.8 * whole(np.zeros_like(found))
