"""The search: one strategy and one replay buffer through many episodes (Algorithm 2), with one worker or several."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import lightning as L
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_only

from law_lightning.agent import ReplayBuffer, StrategyAgent
from law_lightning.search.episodes import MakeModule, check_one_device
from law_lightning.search.gain import Gain
from law_lightning.search.loop import SearchLoop, SearchOptions
from law_lightning.search.processes import in_processes
from law_lightning.search.state import SearchState
from law_lightning.search.workers import Report, Workers, check_workers, launched_outside, packed, unpacked
from law_lightning.utilities.progress import Progress
from law_lightning.utilities.step_axes import log_over

MakeDataModule = Callable[[], L.LightningDataModule]


@dataclass
class SearchResult:
    """What a search found.

    Attributes:
        agent: the strategy with the greatest validated gain; with ``keep="last"`` that of the last episode.
        best_gain: its mean gain in validation accuracy over plain training, on the seeds that it was chosen by; the
            choice makes it too high.
        gain: the same on fresh seeds, with its interval; None with ``check_seeds=0``. Its text says whether it is more
            than chance.
        history: a record per episode, as plain numbers; ``gain`` is None where the strategy was not evaluated.
        buffer: all transitions.
    """

    agent: StrategyAgent
    best_gain: float
    gain: Gain | None
    history: list[dict[str, Any]]
    buffer: ReplayBuffer


class StrategySearch:
    """Learns a strategy over episodes, each with a fresh network and its own seed.

    Every few episodes the greedy strategy trains networks from seeds the search does not learn from, and the strategy
    whose networks validate best is kept. At the end its gain is measured on fresh seeds. Test data are not used. With
    ``run_dir`` the search is checkpointed after every round of episodes, and the same call resumes it, also with
    another number of workers.

    Args:
        agent: the strategy to teach; at the end it is the best one found.
        episodes: L, of all workers together; the last round is completed.
        workers: N_a, processes that run episodes side by side, gather their transitions and take the same updates.
            They are spawned, so the script that starts them needs ``if __name__ == "__main__":`` and the functions
            given to :meth:`run` must be importable; under torchrun or SLURM their processes are used. On
            a machine with several GPUs they take turns.
        trainer_kwargs: for the Trainer of every episode.
        law_kwargs: for the LAWCallback of every episode.
        seed: of the whole search.
        eval_every: episodes between two evaluations of the greedy strategy; there is one at the end too.
        eval_seeds: networks that an evaluation trains.
        check_seeds: fresh seeds on which the gain of the strategy is measured at the end, at the price of two
            trainings each; 0 leaves that out, and with it the interval of the gain.
        keep: the strategy that the search ends with: ``"best"``, of all evaluations, or ``"last"``, after the last
            episode (Algorithm 2).
        seed_pool: M seeds for the learning episodes, taken in turn. A seed's reference, which does not depend on the
            strategy, is trained once; later episodes compute their rewards from its recorded accuracies, the same bit
            for bit. It saved 25 % of the processor time of 40 episodes on the digits with 4 seeds (docs/search.md). The
            records are in the search's state and hold for its own settings. 0 takes a fresh seed every time, as the
            paper does.
        capacity: how many transitions an update learns from, the newest, which bounds what it costs in a long search;
            at least one episode of every worker. None takes all, as the paper does. The run folder keeps all anyway.
        run_dir: folder for ``strategy.safetensors`` (the best), ``replay.pt``, ``metrics.csv``, ``gain.txt`` and
            ``search.pt`` (the state).
        logger: a Lightning logger for ``law/*`` and ``agent/*`` per stage and ``search/*`` per episode.
        progress: whether to show the progress, a bar in a terminal and else a line a minute.

    Raises:
        ValueError: an argument is out of its range, or there are more workers than seeds in the pool.
        MisconfigurationException: ``workers`` is not the number of processes that torchrun or SLURM started, or the
            episodes of several workers would take several devices each.
    """

    def __init__(
        self,
        agent: StrategyAgent | None = None,
        episodes: int = 120,
        workers: int = 1,
        *,
        trainer_kwargs: dict[str, Any] | None = None,
        law_kwargs: dict[str, Any] | None = None,
        seed: int = 0,
        eval_every: int = 20,
        eval_seeds: int = 4,
        check_seeds: int = 8,
        keep: Literal["best", "last"] = "best",
        seed_pool: int = 0,
        capacity: int | None = None,
        run_dir: str | Path | None = None,
        logger: Logger | None = None,
        progress: bool = True,
    ) -> None:
        for name, number in {"episodes": episodes, "eval_every": eval_every, "eval_seeds": eval_seeds}.items():
            if number < 1:
                raise ValueError(f"{name} must be at least 1, not {number}.")
        if check_seeds < 0 or check_seeds == 1:
            raise ValueError(f"check_seeds must be at least 2, as an interval needs two, or 0, not {check_seeds}.")
        if keep not in ("best", "last"):
            raise ValueError(f"keep must be 'best' or 'last', not {keep!r}.")
        if seed_pool < 0:
            raise ValueError(f"seed_pool must be at least 0 (0 takes fresh seeds), not {seed_pool}.")
        if 0 < seed_pool < workers:
            raise ValueError(
                f"{workers} workers run {workers} episodes side by side, but seed_pool={seed_pool} has too few seeds "
                f"for that: use seed_pool={workers} or more, at most {seed_pool} workers, or seed_pool=0."
            )
        check_workers(workers)
        self.agent = StrategyAgent() if agent is None else agent
        least = workers * self.agent.num_stages
        if capacity is not None and capacity < least:
            raise ValueError(
                f"capacity must hold an episode of every worker, {least} transitions ({workers} x "
                f"{self.agent.num_stages} stages), or be None, not {capacity}."
            )
        self.options = SearchOptions(
            episodes=episodes,
            trainer_kwargs=dict(trainer_kwargs or {}),
            law_kwargs=dict(law_kwargs or {}),
            seed=seed,
            eval_every=eval_every,
            eval_seeds=eval_seeds,
            check_seeds=check_seeds,
            keep=keep,
            seed_pool=seed_pool,
            capacity=capacity,
            run_dir=None if run_dir is None else Path(run_dir),
        )
        self.workers = workers
        self.logger = logger
        self.progress = progress
        self._state = SearchState(self.agent.full_state(), self.agent.full_state())
        if workers > 1:
            check_one_device(self.options.trainer_kwargs)

    @property
    def history(self) -> list[dict[str, Any]]:
        """A record per episode so far."""
        return self._state.history

    def run(self, make_module: MakeModule, make_datamodule: MakeDataModule) -> SearchResult:
        """Search, or resume a search.

        Args:
            make_module: makes a fresh network; called once an episode, after seeding.
            make_datamodule: makes the data; called once a worker, whose episodes share it.

        Returns:
            The best strategy and how it was found.

        Raises:
            MisconfigurationException: ``run_dir`` holds a search with other settings.
            ValueError: a file in ``run_dir`` is damaged, or an argument is an instance and not a function.
            WorkerLostError: a worker died; the search goes on from its last checkpoint when it is run again.
            OSError: a checkpoint could not be written; the one before is whole.
        """
        options = self.options
        for name, given in {"make_module": make_module, "make_datamodule": make_datamodule}.items():
            if not callable(given) or isinstance(given, L.LightningModule):
                raise ValueError(
                    f"{name} must be a function that makes a new object at every call, such as a class or "
                    f"lambda: {type(given).__name__}(...), but it is a {type(given).__name__}."
                )
        if options.run_dir is not None:
            self._state = SearchState.read(options.run_dir, options.settings, self.agent) or self._state
        try:
            with self._reporting() as report:
                if self.workers == 1:
                    data = make_datamodule()
                    SearchLoop(Workers(), options, self.agent, self._state, make_module, data, report).run()
                else:
                    _check_picklable(options, make_module, make_datamodule)
                    # As bytes: each of a state's hundreds of tensors would be an open file in both processes.
                    parts = (options, self.agent, packed(vars(self._state)), make_module, make_datamodule)
                    self._state = SearchState(**in_processes(self.workers, search_in_worker, parts, report))
        except (KeyboardInterrupt, SystemExit):
            if options.run_dir is not None:
                rank_zero_info("Stopped; the same command goes on after the last episode that was saved.")
            raise
        state = self._state
        if self.logger is not None and state.gain is not None:
            gain = {f"search/gain_{name}": state.gain[name] for name in ("mean", "low", "high")}
            log_over("search/episode", self.logger, gain | {"search/episode": len(state.history)})
            self.logger.save()
        self.agent.load_full_state(state.best)
        return SearchResult(self.agent, state.best_gain, state.found_gain(), state.history, state.buffer())

    @contextmanager
    def _reporting(self) -> Iterator[Report]:
        """Show the events of a run as its progress, and pass the metrics of episodes to the logger."""
        show = self.progress and getattr(rank_zero_only, "rank", 0) == 0
        total, done = self.options.episodes, len(self.history)
        with Progress("search", "episode", total, done, show) as progress:

            def report(event: str, content: Any) -> None:
                if event == "text":
                    progress.set(text=content)
                    return
                if self.logger is not None:
                    for axis, step, scalars in content["metrics"]:
                        log_over(axis, self.logger, scalars, step=step)
                    self.logger.save()
                progress.set(progress.done + 1, content["text"])

            yield report


def search_in_worker(
    workers: Workers,
    report: Report,
    options: SearchOptions,
    agent: StrategyAgent,
    state: bytes,
    make_module: MakeModule,
    make_datamodule: MakeDataModule,
) -> dict[str, Any]:
    """One worker's share of the search; the same arguments in all of them. Returns the fields of its last state."""
    found = SearchState(**unpacked(state))
    SearchLoop(workers, options, agent, found, make_module, make_datamodule(), report).run()
    return vars(found)


def _check_picklable(options: SearchOptions, make_module: MakeModule, make_datamodule: MakeDataModule) -> None:
    main = sys.modules["__main__"]
    file = getattr(main, "__file__", None)
    interactive = getattr(main, "__spec__", None) is None and not (file and Path(file).is_file())
    given = {"trainer_kwargs": options.trainer_kwargs, "law_kwargs": options.law_kwargs}
    for name, value in (given | {"make_module": make_module, "make_datamodule": make_datamodule}).items():
        try:
            sent = pickle.dumps(value)
        except Exception as error:  # an object's own reduction may raise any
            raise MisconfigurationException(
                f"Workers are processes of their own, but {name} cannot be sent to them ({error}): use functions at "
                "the top level of a module (functools.partial gives them arguments), or workers=1."
            ) from error
        # Where a program has a name, such as <stdin>, each process opens it.
        if interactive and (file or b"__main__" in sent) and launched_outside() is None:
            raise MisconfigurationException(
                f"Workers are processes of their own, which cannot find what {name} needs from a notebook or an "
                "interactive session: put the functions and classes into a file, such as parts.py, and import them "
                "from there, or use workers=1."
            )
