import numpy as np
import pytest

from rivals.optimisers import best_of, cma_es, cross_entropy, random_search
from rivals.population import population_search
from rivals.schedules import BOUND, NUM_PARAMETERS, NUM_STAGES, WARMUP_STAGES

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
        assert len(objective.calls) <= 120
        assert len(objective.calls) >= 108
        distances.append(np.linalg.norm(found - optimum))
    reach = {random_search: 0.9, cross_entropy: 0.5, cma_es: 0.6}[optimiser]
    assert np.median(distances) < reach * np.linalg.norm(optimum)


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_never_costs_more_than_the_budget(optimiser):
    for budget in (12, 13, 24, 50, 121):
        objective = Counting()
        optimiser(objective, 5, budget, np.random.default_rng(0))
        assert len(objective.calls) <= budget


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_leaves_what_is_best_already(optimiser):
    objective = Counting(np.zeros(5), noise=0.0)
    found = optimiser(objective, 5, 60, np.random.default_rng(0))
    assert np.allclose(found, 0)


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_draws_from_its_own_numbers_alone(optimiser):
    np.random.seed(3)  # noqa: NPY002 - the global state is what this is about
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first = optimiser(Counting(), 5, 40, np.random.default_rng(5))
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002
    assert (first == optimiser(Counting(), 5, 40, np.random.default_rng(5))).all()


def test_candidates_share_their_seeds():
    objective = Counting()
    cross_entropy(objective, 5, 60, np.random.default_rng(0))
    seeds = [seed for _, seed in objective.calls]
    assert seeds[:15] == [0] * 15
    assert seeds[15:35] == [1] * 10 + [2] * 10


def test_final_candidates_meet_on_seeds_of_their_own():
    objective = Counting(noise=0.0)
    assert best_of(objective, [np.zeros(5), OPTIMUM, -OPTIMUM], 10, 7) == 1
    assert [seed for _, seed in objective.calls] == [7, 8, 9] * 3


# -- population-based training ---------------------------------------------------------------------------------


class Race:
    """A training whose accuracy is how near theta was to the optimum of each stage so far."""

    def __init__(self):
        self.optimum = np.linspace(-2, 2, NUM_STAGES)[:, None] * np.ones(NUM_PARAMETERS)
        self.trainings = 0.0
        self.paths = []

    def advance(self, state, seed, schedule, start, stop):
        passed, total, first = (0, 0.0, seed) if state is None else state
        assert (passed, first) == (start, seed)
        assert np.abs(schedule).max() <= BOUND
        active = slice(max(start, WARMUP_STAGES), stop)
        total -= float(((schedule - self.optimum)[active] ** 2).mean(1).sum())
        self.trainings += (stop - start) / NUM_STAGES
        self.paths.append((start, stop))
        return (stop, total, first), total

    def whole(self, schedule, seed):
        return self.advance(None, seed, schedule, 0, NUM_STAGES)[1]


def test_population_finds_a_schedule_that_changes_over_stages():
    gained, spent = [], []
    for search in range(3):
        race = Race()
        found = population_search(race.advance, race.whole, 120, np.random.default_rng(search))
        spent.append(race.trainings)
        nothing = race.whole(np.zeros_like(found), 0)
        gained.append(1 - race.whole(found, 0) / nothing)
        best_constant = race.optimum[WARMUP_STAGES:].mean() * np.ones_like(found)
        assert race.whole(found, 0) > race.whole(best_constant, 0)
    assert max(spent) <= 120
    assert min(spent) > 105
    assert min(gained) > 0.2


def test_population_trains_the_warmup_once_and_pauses_at_stage_ends():
    race = Race()
    population_search(race.advance, race.whole, 24, np.random.default_rng(0), population=4)
    assert race.trainings <= 24
    assert race.paths[0] == (0, WARMUP_STAGES)
    assert race.paths[1:8] == [(2, 5)] * 7  # the first generation is wider
    assert race.paths[36:43] == [(17, 20)] * 7
    assert race.paths[43] == (0, WARMUP_STAGES)
    assert race.paths[44:48] == [(2, 5)] * 4
