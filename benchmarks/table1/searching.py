"""The search, in as many commands as it takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import lightning as L
import torch

from law_lightning import StrategyAgent, StrategySearch
from law_lightning.search.episodes import learning_seed
from law_lightning.search.state import SearchState
from table1.budget import Budget, OutOfTimeError, TooShortError
from table1.folder import check_settings, keep_noise
from table1.task import Training, make_data, make_module, noisy_labels, read_arrays

#: A worker that runs out of time leaves the first one so many seconds to save the round before.
_GRACE_S = 3.0


@dataclass(frozen=True)
class Plan:
    """How long and how widely to search; :class:`law_lightning.StrategySearch` explains it.

    Attributes:
        episodes: in all, of all commands; may grow.
        workers: that share the GPU.
        seed: of the search.
        eval_every: episodes between two evaluations.
        eval_seeds: networks that an evaluation trains.
        seed_pool: seeds whose references are trained once; 0 takes a fresh one for every episode, as the paper does.
    """

    episodes: int
    workers: int = 1
    seed: int = 0
    eval_every: int = 20
    eval_seeds: int = 4
    seed_pool: int = 0

    def learning_seeds(self) -> dict[int, int]:
        """Episodes by their seeds; where seeds come again, the first."""
        last = self.episodes + self.workers
        return {learning_seed(self.seed, e, self.seed_pool): e for e in reversed(range(last))}

    def evaluated_after(self, episode: int) -> bool:
        """Whether an evaluation follows the round of an episode, if episodes have seeds of their own."""
        first = episode - episode % self.workers
        ends = range(first + 1, first + self.workers + 1)
        return self.seed_pool == 0 and any(end % self.eval_every == 0 or end == self.episodes for end in ends)


@dataclass
class InTime:
    """Makes networks for a search, but none that could not be trained in time.

    The search is saved after every round of episodes, so it can be left between two trainings. A round that would not
    end is not begun, its evaluation counted in, as far as can be told from how long the trainings before it took.

    Attributes:
        make: makes a network.
        budget: the time that is left.
        plan: of the search.
        longest: in seconds, by kind of training.
    """

    make: Callable[[], L.LightningModule]
    budget: Budget
    plan: Plan
    longest: dict[str, float] = field(default_factory=dict)
    _begun: tuple[str, float] | None = None

    def __call__(self) -> L.LightningModule:
        """A network.

        Raises:
            OutOfTimeError: it would be trained in vain.
        """
        now = time.time()
        if self._begun is not None:
            kind, begun = self._begun
            self.longest[kind] = max(self.longest.get(kind, 0.0), now - begun)
        episode = self.plan.learning_seeds().get(torch.initial_seed())  # the search has just seeded
        grace = _GRACE_S if self.plan.workers > 1 else 0.0
        if self.budget.lacks(self._forecast(episode) + grace):
            time.sleep(grace)
            raise OutOfTimeError
        self._begun = ("evaluate" if episode is None else "learn", now)
        return self.make()

    def _forecast(self, episode: int | None) -> float:
        one = self.longest.get("evaluate", 0.0)
        if episode is None:
            return one
        trainings = -(-self.plan.eval_seeds // self.plan.workers) if self.plan.evaluated_after(episode) else 0
        return self.longest.get("learn", 2 * one) + trainings * one  # a learning episode trains two networks


def search(data: Path, out: Path, training: Training, plan: Plan, budget: Budget, progress: bool = False) -> str:
    """Search, or go on searching, until all is done or the time is up.

    Args:
        data: path of the data set.
        out: folder of the experiment; the search is in its folder ``search``.
        training: of an episode.
        plan: of the search.
        budget: the time.
        progress: whether to show a progress bar.

    Returns:
        What was done and what is left.

    Raises:
        ValueError: the folder holds another search.
        TooShortError: the time was too short for a single round.
    """
    arrays = read_arrays(data)
    folder = out / "search"
    kept = {name: value for name, value in asdict(plan).items() if name not in ("episodes", "workers")}
    check_settings(folder / "settings.json", {"data": arrays.digest, **asdict(training), **kept})
    keep_noise(out, noisy_labels(arrays, training))
    agent = StrategyAgent(seed=plan.seed)
    before, begun = _found(folder, agent), time.time()
    searching = StrategySearch(
        agent, plan.episodes, plan.workers, trainer_kwargs=training.trainer_kwargs(),
        seed=plan.seed, eval_every=plan.eval_every, eval_seeds=plan.eval_seeds, seed_pool=plan.seed_pool,
        run_dir=folder, progress=progress,
    )  # fmt: skip
    make = InTime(partial(make_module, arrays.in_shape, arrays.num_classes, training), budget, plan)
    try:
        searching.run(make, partial(make_data, data, training))
    except OutOfTimeError:
        if len(_found(folder, agent).history) == len(before.history):
            raise TooShortError(
                f"No round of the search ended within {budget.seconds:.0f} s: give it more --budget, or shorten it "
                "(--search-epochs, --eval-seeds); `time` says what fits."
            ) from None
    found = _found(folder, agent)
    done = len(found.history) - len(before.history)
    rate = f", {(time.time() - begun) / done:.1f} s each in this command" if done else ""
    left = plan.episodes - len(found.history)
    return (
        f"search: {len(found.history)} of {plan.episodes} episodes{rate}; the best strategy's validated gain is "
        f"{100 * found.best_gain:+.2f} points\n"
        f"left: {f'{left} episodes; the same command goes on' if left > 0 else 'nothing'}"
    )


def _found(folder: Path, agent: StrategyAgent) -> SearchState:
    """What was saved; nothing at first."""
    return SearchState.read(folder, {}, agent) or SearchState({}, {})
