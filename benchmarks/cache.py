"""What the reference cache saves: a search with ``seed_pool`` beside one without.

    nox -s cache
    nox -s cache -- --task cifar_noise40 --cifar PATH --epochs 10 --check 8

2 cores of x86-64 server CPUs, one thread, both at the same time and beside other work; torch 2.15.0, lightning 2.6.6;
2026-11-28 (digits, on a slower machine) and 2026-11-25; once each, 120 episodes:

                               fresh, CPU s  cached, CPU s  ratio  in the last quarter   wall
    digits_noise40                    297.4          213.8  0.719                0.733  0.719
    cifar_noise40, --epochs 10        654.1          395.4  0.605                0.591  0.592

cached and pooled were identical after 24 and 8 episodes. The aims were 0.65 and 0.6: missed on the digits, where what
both share is too much of the whole (see below), and all but reached on the CNN, whose own 30 epochs would share less.
On 2026-11-25 the digits took 137.2 s and 98.8 s: 0.720. An agent of one member with target networks had 0.713 (146.9 s
and 104.7 s) and, with 5 epochs and 65 episodes, 0.634.

- The searches take turns, round by round (an episode and, every twentieth, an evaluation), so that both meet the same
  disturbance. Their time is all of it: training, both networks' validation, the strategy's updates, evaluations.
- fresh: ``seed_pool=0``. cached: ``seed_pool=M``; the first M episodes train their warm-ups and references, the others
  do not.
- pooled: the seeds of cached, but everything is trained; compared bit for bit with cached as far as it goes.
- What both share (the target's training, evaluations, the update, which grows with the buffer) bounds the ratio. A step
  of the target's costs more than one of the reference's: it goes through the Trainer, and weighs its samples.
- Of the 213.8 s with the cache evaluations took 28.5 s, the strategy's updates 45.8 s, and the rest, nearly all of it
  the target's training, 139.5 s. Of a search's time, a sampling profiler (pyinstrument, 12 episodes) found about a
  fifth in Lightning's own code, spread over many places.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
import torch
from tqdm import tqdm

import tasks
from law_lightning import StrategyAgent, StrategySearch
from law_lightning.search.loop import SearchLoop
from law_lightning.search.references import ReferenceCache
from law_lightning.search.workers import Workers
from law_lightning.second_network.trace import ReferenceTrace, digest
from quiet import quiet


class NoCache(ReferenceCache):
    """Knows no reference and no warm-up, and keeps none."""

    def __init__(self) -> None:
        super().__init__({}, None)
        self.warmups.trusted = False

    def trace(self, seed: int) -> ReferenceTrace:
        """None: the reference is trained as if there were no cache."""
        return None  # type: ignore[return-value]


@dataclass
class Run:
    """A search in the making."""

    loop: SearchLoop
    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    parts: Counter[str] = field(default_factory=Counter)  # of the processor time, s

    def __post_init__(self) -> None:
        """Measure apart what no cache can spare."""
        self._measure("updates", self.loop.agent, "full_data_update")
        self._measure("evaluations", self.loop, "_evaluate")

    def _measure(self, part: str, owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def measured(*args: Any, **kwargs: Any) -> Any:
            cpu = time.process_time()
            result = original(*args, **kwargs)
            self.parts[part] += time.process_time() - cpu
            return result

        setattr(owner, name, measured)

    def round(self) -> None:
        """One episode, and what belongs to it."""
        wall, cpu = time.perf_counter(), time.process_time()
        self.loop._round()
        self.cpu.append(time.process_time() - cpu)
        self.wall.append(time.perf_counter() - wall)

    def result(self) -> str:
        """A digest of the agent, what it learned from, and the history."""
        return digest([self.loop.agent.full_state(), self.loop._buffer.state_dict(), self.loop.state.history])


def make_run(task: tasks.Task, args: argparse.Namespace, pool: int) -> Run:
    """A search of a task."""
    options: dict[str, Any] = dict(task.trainer_kwargs)
    if args.epochs is not None:
        options["max_epochs"] = args.epochs
    search = StrategySearch(
        StrategyAgent(seed=0), episodes=args.episodes, seed_pool=pool, trainer_kwargs=options, progress=False
    )
    parts = (search._options(), search.agent, search._state, task.make_module, task.make_datamodule())
    return Run(SearchLoop(Workers(), *parts, lambda event, content: None))


def show(name: str, values: list[float], others: list[float], quarter: int) -> None:
    """Totals, their ratio, and the ratio of the last quarter, in which the buffer is large."""
    late = sum(others[-quarter:]) / sum(values[-quarter:])
    ratio = sum(others) / sum(values)
    print(f"{name}: fresh {sum(values):.1f} s, cached {sum(others):.1f} s, ratio {ratio:.3f}; last quarter {late:.3f}")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--task", choices=tasks.NAMES, default="digits_noise40")
    parser.add_argument("--episodes", type=int, default=120)
    parser.add_argument("--pool", type=int, default=8, help="seeds, M (default: 8)")
    parser.add_argument("--check", type=int, default=24, help="episodes that are compared bit for bit (default: 24)")
    parser.add_argument("--epochs", type=int, help="of an episode; by default the task's")
    parser.add_argument("--minutes", type=float, help="stop after so long, with what there is")
    parser.add_argument("--cifar", type=Path, help="an .npz file of CIFAR-10, for the tasks with images")
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()) / "law-lightning-benchmark")
    args = parser.parse_args()
    if args.episodes < 4:
        parser.error("--episodes must be at least 4")
    return args


def main() -> None:
    """Measure and print."""
    args = arguments()
    quiet()
    torch.set_num_threads(1)
    tasks.prepare([args.task], args.data, args.cifar)
    task = tasks.make_tasks(args.data)[args.task]
    fresh, cached, pooled = (make_run(task, args, pool) for pool in (0, args.pool, args.pool))
    pooled.loop._references = NoCache()
    expected = None
    begun = time.monotonic()
    for episode in tqdm(range(args.episodes), disable=None):
        if args.minutes is not None and time.monotonic() - begun > args.minutes * 60 and episode > args.check:
            break
        for run in (fresh, cached) if episode % 2 else (cached, fresh):
            run.round()
        if episode < args.check:
            pooled.round()
        if episode == args.check - 1:
            expected = cached.result()
    done = len(cached.cpu)
    print(f"{args.task}: {done} of {args.episodes} episodes, seed_pool={args.pool}")
    print(f"torch {torch.__version__}, lightning {L.__version__}, {platform.machine()}, one thread")
    show("CPU time", fresh.cpu, cached.cpu, max(1, done // 4))
    show("wall time", fresh.wall, cached.wall, max(1, done // 4))
    rest = sum(cached.cpu) - sum(cached.parts.values())
    print("CPU time of cached: " + ", ".join(f"{part} {s:.1f} s" for part, s in cached.parts.items()), end="")
    print(f", the rest {rest:.1f} s: {1e3 * rest / done:.0f} ms an episode")
    if args.check:
        same = pooled.result() == expected
        print(f"cached and pooled after {args.check} episodes: {'identical' if same else 'DIFFERENT'}")
        if not same:
            sys.exit(1)


if __name__ == "__main__":
    main()
