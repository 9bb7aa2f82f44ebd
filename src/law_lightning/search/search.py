"""The search: one strategy and one replay buffer through many episodes (Algorithm 2)."""

from __future__ import annotations

import csv
import re
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from tqdm import tqdm

from law_lightning.agent import ReplayBuffer, StrategyAgent
from law_lightning.callbacks import LAWCallback
from law_lightning.files import load_state, save_state
from law_lightning.search.episodes import MakeModule, episode_seed, run_episode

MakeDataModule = Callable[[], L.LightningDataModule]


@dataclass
class SearchResult:
    """What a search found.

    Attributes:
        agent: the strategy with the greatest validated gain.
        best_gain: its mean gain in validation accuracy over plain training, on seeds the search did not learn from.
        history: a record per episode, as plain numbers; ``gain`` is None where the strategy was not evaluated.
        buffer: all transitions.
    """

    agent: StrategyAgent
    best_gain: float
    history: list[dict[str, Any]]
    buffer: ReplayBuffer


def _described(options: Mapping[str, Any]) -> str:
    """Options as text that is the same in another process: without the addresses of objects."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(sorted(options.items(), key=lambda item: item[0])))


class StrategySearch:
    """Learns a strategy over episodes, each with a fresh network and a fresh seed.

    Every few episodes the greedy strategy trains networks from seeds the search does not learn from, and the strategy
    whose networks validate best is kept. Test data play no part. With ``run_dir`` the search is checkpointed after
    every episode, and the same call goes on where it stopped.

    Args:
        agent: the strategy to teach; at the end it is the best one found.
        episodes: L.
        workers: N_a, the processes that run episodes; one for now.
        trainer_kwargs: for the Trainer of every episode.
        law_kwargs: for the LAWCallback of every episode.
        seed: of the whole search.
        eval_every: episodes between two evaluations of the greedy strategy; there is one at the end too.
        eval_seeds: networks that an evaluation trains.
        run_dir: folder for ``strategy.pt`` (the best), ``replay.pt``, ``metrics.csv`` and ``search.pt`` (the state).
        logger: a Lightning logger for ``law/*`` and ``agent/*`` per stage and ``search/*`` per episode.
        progress: whether to show a progress bar.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        agent: StrategyAgent | None = None,
        episodes: int = 60,
        workers: int = 1,
        *,
        trainer_kwargs: dict[str, Any] | None = None,
        law_kwargs: dict[str, Any] | None = None,
        seed: int = 0,
        eval_every: int = 10,
        eval_seeds: int = 4,
        run_dir: str | Path | None = None,
        logger: Logger | None = None,
        progress: bool = True,
    ) -> None:
        for name, number in {"episodes": episodes, "eval_every": eval_every, "eval_seeds": eval_seeds}.items():
            if number < 1:
                raise ValueError(f"{name} must be at least 1, not {number}.")
        if workers != 1:
            raise ValueError(f"workers must be 1 in this version, not {workers}: episodes run one after the other.")
        self.agent = StrategyAgent() if agent is None else agent
        self.episodes = episodes
        self.trainer_kwargs = dict(trainer_kwargs or {})
        self.law_kwargs = dict(law_kwargs or {})
        self.seed = seed
        self.eval_every = eval_every
        self.eval_seeds = eval_seeds
        self.run_dir = None if run_dir is None else Path(run_dir)
        self.logger = logger
        self.progress = progress
        self.buffer = ReplayBuffer()
        self.history: list[dict[str, Any]] = []
        self._plain: list[float] = []  # plain training's accuracies on the evaluation seeds
        self._best_gain = float("-inf")
        self._best: dict[str, Any] = self.agent.full_state()

    def run(self, make_module: MakeModule, make_datamodule: MakeDataModule) -> SearchResult:
        """Search, or go on searching.

        Args:
            make_module: makes a fresh network; called once an episode, after seeding.
            make_datamodule: makes the data, which all episodes share.

        Returns:
            The best strategy and how it was found.

        Raises:
            MisconfigurationException: ``run_dir`` holds a search with other settings.
        """
        self._resume()
        datamodule = make_datamodule()
        before = len(self.history)
        with tqdm(total=self.episodes, initial=before, desc="search", unit="episode", disable=not self.progress) as bar:
            try:
                while len(self.history) < self.episodes:
                    self._episode(make_module, datamodule, bar)
                    self._checkpoint()
                    self._describe(bar)
                    bar.update()
            except (KeyboardInterrupt, SystemExit):
                if self.run_dir is not None:
                    rank_zero_info(f"Stopped after {len(self.history)} episodes; the same command goes on from there.")
                raise
        self.agent.load_full_state(self._best)
        return SearchResult(self.agent, self._best_gain, self.history, self.buffer)

    # -- episodes ------------------------------------------------------------------------------------------

    def _episode(self, make_module: MakeModule, datamodule: L.LightningDataModule, bar: Any) -> None:
        episode = len(self.history)
        if episode == 0:
            self._evaluate(make_module, datamodule, bar)  # doing nothing is a strategy too
        law = LAWCallback(self.agent, mode="search", buffer=self.buffer, keep="target", **self.law_kwargs)
        seed = episode_seed(self.seed, "learn", episode)
        run_episode(seed, make_module, datamodule, self.trainer_kwargs, law)
        last = law.history[-1]
        record: dict[str, Any] = {
            "episode": episode,
            "seed": seed,
            "return": sum(stage["reward"] for stage in law.history),
            "acc_target": last["acc_target"],
            "acc_reference": last["acc_reference"],
            **{name: last.get(name) for name in ("critic_loss", "actor_loss", "q_mean")},
            "gain": None,
        }
        if (episode + 1) % self.eval_every == 0 or episode + 1 == self.episodes:
            record["gain"] = self._evaluate(make_module, datamodule, bar)
        self.history.append(record)
        self._log(record, law)

    def _evaluate(self, make_module: MakeModule, datamodule: L.LightningDataModule, bar: Any) -> float:
        """Mean gain of the greedy strategy over plain training; keeps the strategy if it is the best."""
        gains = []
        for index in range(self.eval_seeds):
            bar.set_postfix_str(f"evaluating {index + 1}/{self.eval_seeds}")
            seed = episode_seed(self.seed, "evaluate", index)
            # With the callback first: it names what is wrong with the set-up before anything is trained.
            apply = LAWCallback(self.agent, mode="apply", **self._apply_kwargs())
            accuracy = run_episode(seed, make_module, datamodule, self.trainer_kwargs, apply)
            if index == len(self._plain):  # plain training does not depend on the strategy: once is enough
                self._plain.append(run_episode(seed, make_module, datamodule, self.trainer_kwargs, None))
            gains.append(accuracy - self._plain[index])
        gain = statistics.fmean(gains)
        if gain > self._best_gain:
            self._best_gain = gain
            self._best = self.agent.full_state()
        return gain

    def _apply_kwargs(self) -> dict[str, Any]:
        shared = ("num_stages", "warmup_stages", "renormalize", "smoothing")
        return {name: value for name, value in self.law_kwargs.items() if name in shared}

    # -- records -------------------------------------------------------------------------------------------

    def _describe(self, bar: Any) -> None:
        record = self.history[-1]
        difference = record["acc_target"] - record["acc_reference"]
        bar.set_postfix_str(f"target - reference {difference:+.3f}, best gain {self._best_gain:+.3f}")

    def _log(self, record: dict[str, Any], law: LAWCallback) -> None:
        if self.logger is None:
            return
        first = record["episode"] * law.num_stages
        for stage in law.history:
            self.logger.log_metrics(law.scalars(stage), step=first + stage["stage"])
        scalars = {f"search/{name}": value for name, value in record.items() if isinstance(value, float)}
        scalars["search/best_gain"] = self._best_gain
        self.logger.log_metrics(scalars, step=first + law.num_stages - 1)
        self.logger.save()

    # -- state ---------------------------------------------------------------------------------------------

    def _settings(self) -> dict[str, str]:
        """What a resumed search must share with its beginning."""
        return {
            "agent": _described(self.agent.hparams),
            "trainer_kwargs": _described(self.trainer_kwargs),
            "law_kwargs": _described(self.law_kwargs),
            "seed": repr(self.seed),
            "eval_every": repr(self.eval_every),
            "eval_seeds": repr(self.eval_seeds),
        }

    def _checkpoint(self) -> None:
        if self.run_dir is None:
            return
        self.run_dir.mkdir(parents=True, exist_ok=True)
        save_state(self.run_dir / "strategy.pt", "strategy", self._best)
        self.buffer.save(self.run_dir / "replay.pt")
        with (self.run_dir / "metrics.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(self.history[0]))
            writer.writeheader()
            writer.writerows(self.history)
        state = {
            "settings": self._settings(),
            "agent": self.agent.full_state(),
            "buffer": self.buffer.state_dict(),
            "history": self.history,
            "plain": self._plain,
            "best_gain": self._best_gain,
            "best": self._best,
        }
        save_state(self.run_dir / "search.pt", "search", state)

    def _resume(self) -> None:
        if self.run_dir is None or not (self.run_dir / "search.pt").exists():
            return
        state = load_state(self.run_dir / "search.pt", "search")
        settings = self._settings()
        other = [name for name, value in state["settings"].items() if settings.get(name) != value]
        if other:
            raise MisconfigurationException(
                f"{self.run_dir} holds a search with other settings ({', '.join(other)}): resume it with the same "
                "ones, or choose another run_dir."
            )
        self.agent.load_full_state(state["agent"])
        self.buffer.load_state_dict(state["buffer"])
        self.history = state["history"]
        self._plain = state["plain"]
        self._best_gain = state["best_gain"]
        self._best = state["best"]
