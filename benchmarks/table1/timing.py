"""What an episode and a training take on this machine, from a few steps of each."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L

from law_lightning import LAWCallback, StrategyAgent
from law_lightning.search.episodes import quiet_lightning, run_episode
from quiet import quiet
from table1.searching import Plan
from table1.task import Training, make_data, make_module, read_arrays
from table1.training import make_trainer

#: Where the processes meet before each measurement.
_meeting: Any = None


@dataclass(frozen=True)
class Costs:
    """Seconds on this machine.

    Attributes:
        episode: of the search: two networks, their validation, the strategy's updates.
        single: a training of the search's evaluation.
        base: plain training on all data.
        law: training with a strategy on all data.
    """

    episode: float
    single: float
    base: float
    law: float

    def episodes_in(self, seconds: float, plan: Plan) -> int:
        """How many episodes of a new search fit, with its evaluations; so many workers were measured side by side."""
        first = 2 * plan.eval_seeds * self.single  # plain training and the strategy as it begins
        each = self.episode + plan.eval_seeds / plan.eval_every * self.single
        return max(0, int((seconds * plan.workers - first) / each))


def measure(data: Path, searching: Training, training: Training, steps: int) -> Costs:
    """Run a few steps of everything; a longer run less a shorter one gives the cost of a step.

    Args:
        data: path of the data set.
        searching: of an episode.
        training: of the training.
        steps: of the shorter run, at least the number of stages.
    """
    quiet()
    episode = partial(_run_episode, data, searching)
    single = partial(_run_episode, data, searching, searches=False)
    base = partial(_run_training, data, training)
    law = partial(_run_training, data, training, law=True)
    costs = []
    for run, kind in ((episode, searching), (single, searching), (base, training), (law, training)):
        short, long = (_timed(run, number) for number in (steps, 2 * steps))
        step = (long - short) / steps
        costs.append(short + (_total_steps(data, kind) - steps) * step)
    return Costs(*costs)


def measure_together(processes: int, data: Path, searching: Training, training: Training, steps: int) -> Costs:
    """The mean of what several processes measure that share the machine."""
    if processes == 1:
        return measure(data, searching, training, steps)
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes, initializer=_meet_at, initargs=(context.Barrier(processes),)) as pool:
        found = pool.starmap(measure, [(data, searching, training, steps)] * processes, chunksize=1)
    return Costs(*(sum(column) / processes for column in zip(*(vars(costs).values() for costs in found), strict=True)))


def _meet_at(barrier: Any) -> None:
    global _meeting
    _meeting = barrier


def _timed(run: Callable[[int], None], steps: int) -> float:
    """Seconds of a run, after another one that lets the libraries choose their algorithms."""
    run(steps)
    if _meeting is not None:
        _meeting.wait()
    begun = time.perf_counter()
    run(steps)
    return time.perf_counter() - begun


def _total_steps(data: Path, training: Training) -> int:
    return training.epochs * len(make_data(data, training).train_dataloader())


def _run_episode(data: Path, training: Training, steps: int, searches: bool = True) -> None:
    arrays = read_arrays(data)
    make = partial(make_module, arrays.in_shape, arrays.num_classes, training)
    law = LAWCallback(StrategyAgent(seed=0), keep="target") if searches else None
    limits = {"max_epochs": -1, "max_steps": steps}
    run_episode(0, make, make_data(data, training), training.trainer_kwargs() | limits, law)


def _run_training(data: Path, training: Training, steps: int, law: bool = False) -> None:
    arrays = read_arrays(data)
    callbacks: list[L.Callback] = [LAWCallback(StrategyAgent(seed=0), mode="apply")] if law else []
    with quiet_lightning():
        L.seed_everything(0, verbose=False)
        module = make_module(arrays.in_shape, arrays.num_classes, training)
        trainer = make_trainer(training, callbacks, max_epochs=-1, max_steps=steps)
        trainer.fit(module, datamodule=make_data(data, training))
