"""Algorithm 2 as one worker runs it: rounds of one episode for each worker, side by side."""

from __future__ import annotations

import re
import statistics
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from torch import Tensor

from law_lightning.agent import StrategyAgent
from law_lightning.callbacks import LAWCallback
from law_lightning.search.episodes import MakeModule, episode_seed, learning_seed, on_one_device, run_episode
from law_lightning.search.gain import Gain
from law_lightning.search.shared import SharedBuffer
from law_lightning.search.state import SearchState
from law_lightning.search.workers import Report, Workers
from law_lightning.utilities.files import digest


@dataclass(frozen=True)
class SearchOptions:
    """The options of a search; see :class:`law_lightning.search.search.StrategySearch`."""

    episodes: int
    trainer_kwargs: dict[str, Any]
    law_kwargs: dict[str, Any]
    seed: int
    eval_every: int
    eval_seeds: int
    check_seeds: int
    keep: Literal["best", "last"]
    seed_pool: int
    capacity: int | None
    run_dir: Path | None

    @property
    def settings(self) -> dict[str, str]:
        """Settings that a resumed search must share with its beginning, as text that is the same in every process."""
        free = ("episodes", "run_dir", "check_seeds")
        return {name: _described(value) for name, value in vars(self).items() if name not in free}


class SearchLoop:
    """One worker's share of a search. All workers hold the same state and the same agent between two rounds.

    ``agent`` begins from ``state``, to which the rounds are added in place; ``report`` shows those of the first worker.
    """

    def __init__(
        self,
        workers: Workers,
        options: SearchOptions,
        agent: StrategyAgent,
        state: SearchState,
        make_module: MakeModule,
        datamodule: L.LightningDataModule,
        report: Report,
    ) -> None:
        self.workers = workers
        self.options = options
        self.agent = agent
        self.state = state
        self._report: Report = report if workers.rank == 0 else lambda event, content: None
        buffers = [state.buffer(rank, workers.size) for rank in range(workers.size)]
        self._buffer = SharedBuffer(workers, buffers, options.capacity)
        alone = workers.size == 1
        options_here = options.trainer_kwargs if alone else on_one_device(options.trainer_kwargs, workers.rank)
        self._train = partial(run_episode, make_module=make_module, datamodule=datamodule, trainer_kwargs=options_here)

    def run(self) -> None:
        """Search until all episodes are done, the last round completed, and check what was found on fresh seeds."""
        self.agent.load_full_state(self.state.agent)
        while len(self.state.history) < self.options.episodes:
            self._round()
        if self.options.check_seeds and (self.state.gain or {}).get("seeds") != self.options.check_seeds:
            self._check()
        folder = self.options.run_dir  # a finished search of an earlier version has its strategy in a file of that one
        if folder is not None and not (folder / "strategy.safetensors").exists():
            self._write(folder)

    def _round(self) -> None:
        state, workers, options = self.state, self.workers, self.options
        first = len(state.history)
        if first == 0:
            self._evaluate()  # the untrained strategy may be the best
        mine = first + (workers.rank - first) % workers.size  # worker e mod N_a runs episode e, also after a resumption
        results = workers.gather(self._episode(mine))
        other = [rank for rank, result in enumerate(results) if result["agent"] != results[0]["agent"]]
        if other:  # the same updates give the same bits on machines of one kind
            raise RuntimeError(
                f"After episode {first} the strategies of the workers {other} are not that of the first: their "
                "machines compute differently. Use machines with the same processors and versions of torch; what was "
                "saved after the last round of episodes is whole."
            )
        for result, new in zip(results, self._buffer.take_new(), strict=True):
            result["transitions"] = new
        results.sort(key=lambda result: int(result["record"]["episode"]))
        for result in results:
            state.add_episode(result["record"], result["transitions"])
            if options.seed_pool:
                state.references[result["record"]["seed"]] = result["reference"]
        last = len(state.history)
        if any((episode + 1) % options.eval_every == 0 for episode in range(first, last)) or last >= options.episodes:
            state.history[-1]["gain"] = self._evaluate()
        state.agent = self.agent.full_state()
        if options.keep == "last":
            state.best = state.agent
        if options.run_dir is not None:
            self._write(options.run_dir)
        for result in results:
            record, metrics = result["record"], result["metrics"]
            scalars = {f"search/{name}": value for name, value in record.items() if isinstance(value, float)}
            scalars |= {"search/episode": record["episode"], "search/best_gain": state.best_gain}
            metrics.append(("search/episode", metrics[-1][1], scalars))
            difference = record["acc_target"] - record["acc_reference"]
            text = f"target - reference {difference:+.3f}, best gain {state.best_gain:+.3f}"
            self._report("episode", {"metrics": metrics, "text": text})

    def _write(self, folder: Path) -> None:
        if self.workers.rank == 0:
            self.state.write(folder, self.options.settings)

    def _episode(self, episode: int) -> dict[str, Any]:
        """Run one episode; its results as tensors and plain Python."""
        options = self.options
        seed = learning_seed(options.seed, episode, options.seed_pool)
        # The reference's accuracies depend on the seed alone; where they are not known yet, the episode fills them in.
        reference = self.state.references.get(seed, {}) if options.seed_pool else None
        self.agent.exploration.episode = episode
        law = LAWCallback(
            self.agent, buffer=self._buffer, keep="target", reference_record=reference, **options.law_kwargs
        )
        self._train(seed, law=law)
        if self.workers.size > 1:
            # Its training may have stopped early, but the others' went on.
            for _ in range(law.num_stages - max(len(law.history), law.warmup_stages)):
                self._buffer.skip()
                if law.learn and len(self._buffer):
                    self.agent.full_data_update(self._buffer)
        last, learned = law.history[-1], self.agent.full_state()
        first = episode * law.num_stages
        return {
            "record": {
                "episode": episode,
                "seed": seed,
                "return": sum(stage["reward"] for stage in law.history),
                "acc_target": last["acc_target"],
                "acc_reference": last["acc_reference"],
                **{name: last.get(name) for name in ("critic_loss", "actor_loss", "q_mean")},
                "gain": None,
            },
            "reference": reference,
            "agent": digest(learned["networks"]) + digest(learned["optimizers"]),
            "metrics": [
                ("law/stage", step, law.scalars(stage) | {"law/stage": step})
                for stage in law.history
                for step in [first + stage["stage"]]
            ],
        }

    def _evaluate(self) -> float:
        """Mean gain of the greedy strategy over plain training; keeps the strategy if it is to be kept."""
        state, options = self.state, self.options
        found = self._compared("evaluate", options.eval_seeds, known=len(state.plain))
        plain = [float(right.mean()) for _, right in found if right is not None]
        state.plain, state.gain = state.plain or plain, None
        gain = statistics.fmean(float(right.mean()) for right, _ in found) - statistics.fmean(state.plain)
        if gain > state.best_gain or options.keep == "last":
            state.best_gain = gain
            state.best = self.agent.full_state()
        return gain

    def _check(self) -> None:
        """Measure the gain of the strategy that is kept on seeds that decided nothing."""
        state, options = self.state, self.options
        self.agent.load_full_state(state.best)
        found = self._compared("check", options.check_seeds)
        evaluations = 1 + sum(record["gain"] is not None for record in state.history)
        gains = torch.stack([right - plain for right, plain in found if plain is not None])
        state.gain = asdict(Gain.of(gains, candidates=1 if options.keep == "last" else evaluations))
        if options.run_dir is not None:
            self._write(options.run_dir)

    def _compared(self, purpose: str, count: int, known: int = 0) -> list[tuple[Tensor, Tensor | None]]:
        """Accuracy on each validation sample, [N], with the greedy strategy and plain, from ``count`` seeds.

        The first ``known`` are not trained plainly again: that does not depend on the strategy.
        """
        shared = ("num_stages", "warmup_stages", "renormalize", "smoothing")
        law_kwargs = {name: value for name, value in self.options.law_kwargs.items() if name in shared}
        found: dict[int, tuple[Tensor, Tensor | None]] = {}
        for index in range(self.workers.rank, count, self.workers.size):
            self._report("text", f"{purpose} {index + 1}/{count}")
            seed = episode_seed(self.options.seed, purpose, index)
            # With the callback first: it checks everything before anything is trained.
            apply = LAWCallback(self.agent, mode="apply", **law_kwargs)
            right, plain = self._train(seed, law=apply), None
            if index >= known:
                nothing = len(apply.history) == apply.num_stages and not any(any(s["theta"]) for s in apply.history)
                plain = right if nothing else self._train(seed, law=None)  # weights of one change nothing
            found[index] = right, plain
        everyone = {index: pair for each in self.workers.gather(found) for index, pair in each.items()}
        return [everyone[index] for index in sorted(everyone)]


def _described(value: Any) -> str:
    """A setting as text, without the addresses of objects."""
    if not isinstance(value, dict):
        return repr(value)
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(sorted(value.items(), key=lambda item: str(item[0]))))
