"""What workers give: episodes a minute of 1 and 2 workers, and the cost of averaging gradients over more.

    nox -s workers

2 cores of an x86-64 server CPU with nothing else to do, torch 2.15.0, lightning 2.6.6, the default agent of three
members; 2026-11-25; options --episodes 90 --rounds 2 --updates 50:

                        episodes a minute       of 2 searches         start-up in s
1 worker                58.7 [57.8, 59.6]       0.50 [0.50, 0.51]     4.0 [3.8, 4.1]
2 searches of 1 worker  117.2 [116.7, 117.8]    1.00 [1.00, 1.00]     4.9 [4.5, 5.3]
2 workers               107.4 [106.8, 108.0]    0.92 [0.91, 0.93]     12.4 [12.0, 12.8]

the mean gradient (9424 + 9520 numbers) of N workers, ms (the same run; stopped after 16 workers)
         once a stage:         at every batch:       instead of both, at every batch:
workers  share a transition    steps on N x 128      send the gradients
      1  0.09 [0.09, 0.10]     0.90 [0.87, 0.92]     0.23 [0.15, 0.31]
      2  0.68 [0.59, 0.78]     1.08 [1.06, 1.10]     1.37 [1.19, 1.56]
      4  2.93 [2.79, 3.06]     1.54 [1.54, 1.55]     10.88 [10.56, 11.20]
      8  11.36 [11.04, 11.67]  2.47 [2.44, 2.50]     41.62 [40.77, 42.47]
     16  37.47 [37.22, 37.72]  4.10 [4.09, 4.10]     130.18 [129.10, 131.26]

Two workers give 1.83 times the episodes of one. Before, when all three members learned in every update, it was 2.1
times, but of fewer: 45.7 and 42.5 episodes a minute, and 92.0 and 90.0.

Up to 64 workers were measured with an earlier agent of one member and two critics (18848 + 9520 numbers): sharing a
transition took 90.54 ms with 32 workers and 193.76 with 64, a batch 13.61 and 24.79, sending gradients 288.43 and
690.45.

- Episodes: digits_noise40 of ``tasks.py``. Every round runs, one after the other, a search with 1 worker, two such
  searches at the same time that know nothing of each other, and a search with 2 workers; each has the same number of
  episodes. The independent searches show what two cores give at best.
- A rate counts from when the last worker has its data until the search returns. What comes before it is start-up:
  processes, imports, data.
- Averaging: workers share the transitions of a stage, and a batch is of all workers' transitions, whose gradient is
  the mean of theirs; each member's batches are computed by one worker; the third column is what averaging by messages
  would cost instead, as gloo's all-reduce. Workers are threads of one process here. Where there are more of them than
  cores they share the cores, and the times of their messages are those of this machine, not of as many machines. A
  batch is timed alone on one core.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import lightning as L
import torch
import torch.distributed as dist
from tqdm import tqdm

import tasks
from law_lightning import ReplayBuffer, StrategyAgent, StrategySearch
from law_lightning.search.workers import GlooWorkers
from law_lightning.stages.schedule import TrainingPhase
from quiet import quiet

NUMBERS = (1, 2, 4, 8, 16, 32, 64)


# -- episodes ----------------------------------------------------------------------------------------------------


def make_marked(marks: Path) -> L.LightningDataModule:
    """The data; the file says when they were ready, by a clock that processes share."""
    datamodule = tasks.make_digits(0.4)
    datamodule.setup("fit")
    (marks / f"{os.getpid()}").write_text(repr(time.time()))
    return datamodule


def search(workers: int, episodes: int, epochs: int | None, begun: float) -> None:
    """Run a search in this process and print its start-up and its time, in seconds."""
    torch.set_num_threads(1)
    task = tasks.make_tasks(Path())["digits_noise40"]
    options = task.trainer_kwargs | ({} if epochs is None else {"max_epochs": epochs})
    with tempfile.TemporaryDirectory() as folder:
        searching = StrategySearch(
            StrategyAgent(seed=0), episodes, workers, trainer_kwargs=options, eval_every=episodes, eval_seeds=2,
            progress=False,
        )  # fmt: skip
        searching.run(task.make_module, partial(make_marked, Path(folder)))
        end = time.time()
        ready = max(float(mark.read_text()) for mark in Path(folder).iterdir())
    print(ready - begun, end - ready)


def timed(workers: int, episodes: int, epochs: int | None, copies: int = 1) -> tuple[float, float]:
    """Start-up in seconds and episodes a minute of searches that run side by side, each in a fresh process."""
    options = [] if epochs is None else ["--epochs", str(epochs)]
    command = [sys.executable, __file__, *options, "--search", str(workers), str(episodes)]
    running = [
        subprocess.Popen([*command, repr(time.time())], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for _ in range(copies)
    ]
    results = []
    for process in running:
        output, _ = process.communicate()
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}.")
        results.append([float(number) for number in output.split()])
    # Copies that end at different times: each has a rate of its own while both run.
    return max(up for up, _ in results), sum(episodes * 60 / took for _, took in results)


def spread(values: list[float], digits: int) -> str:
    """Median [min, max]."""
    return f"{statistics.median(values):.{digits}f} [{min(values):.{digits}f}, {max(values):.{digits}f}]"


def measure_episodes(args: argparse.Namespace) -> None:
    """Episodes a minute, in interleaved rounds."""
    kinds = {
        "1 worker": partial(timed, 1, args.episodes, args.epochs),
        "2 searches of 1 worker": partial(timed, 1, args.episodes, args.epochs, copies=2),
        "2 workers": partial(timed, 2, args.episodes, args.epochs),
    }
    results: dict[str, list[tuple[float, float]]] = {name: [] for name in kinds}
    with tqdm(total=args.rounds * len(kinds), disable=None) as bar:
        for _ in range(args.rounds):
            for name, run in kinds.items():
                results[name].append(run())
                bar.update()
    best = [rate for _, rate in results["2 searches of 1 worker"]]
    print(f"{'':24}{'episodes a minute':24}{'of 2 searches':22}start-up in s")
    for name, pairs in results.items():
        startups, rates = (list(column) for column in zip(*pairs, strict=True))
        shares = [rate / top for rate, top in zip(rates, best, strict=True)]
        print(f"{name:24}{spread(rates, 1):24}{spread(shares, 2):22}{spread(startups, 1)}")


# -- averaging ---------------------------------------------------------------------------------------------------


def meeting(workers: int, rounds: int, message: Callable[[GlooWorkers], None]) -> float:
    """Seconds that a message takes with so many workers, played by threads, as the slowest of them sees it."""
    store, took, errors = dist.HashStore(), [0.0] * workers, []
    together = threading.Barrier(workers)

    def work(rank: int) -> None:
        try:
            group = GlooWorkers(store, rank, workers)
            for number in range(rounds + 1):
                if number == 1:  # the first finds the others
                    together.wait()
                    begun = time.perf_counter()
                message(group)
            took[rank] = (time.perf_counter() - begun) / rounds
            together.wait()
        except BaseException as error:
            errors.append(error)
            together.abort()

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return max(took)


def share_transition(group: GlooWorkers) -> None:
    """What a worker sends at the end of a stage: theta [5] and nine numbers besides."""
    found = group.share(torch.full((14,), float(group.rank), dtype=torch.float64))
    if [int(each[0]) for each in found] != list(range(group.size)):
        raise AssertionError("the transitions are wrong")


def reduce_gradients(group: GlooWorkers, sizes: list[int]) -> None:
    """What a worker would send for every batch if gradients were averaged by messages."""
    for size in sizes:
        gradient = torch.full((size,), float(group.rank))
        group._group.allreduce([gradient]).wait()
        if not bool((gradient / group.size == (group.size - 1) / 2).all()):
            raise AssertionError("the average is wrong")


def batch_of(workers: int, rounds: int) -> float:
    """Seconds of one batch's critic and actor step on the transitions of so many workers, as each computes it."""
    draw, phase = torch.Generator().manual_seed(0), TrainingPhase(5, 20, 0.5, 0.5)
    agent, buffer = StrategyAgent(seed=0), ReplayBuffer()
    rows = agent.hparams["batch_size"] * workers
    for _ in range(rows):
        buffer.add(phase, torch.randn(5, generator=draw), float(torch.randn(1, generator=draw)), phase, True)
    agent.full_data_update(buffer, epochs=1, batch_size=rows)
    begun = time.perf_counter()
    agent.full_data_update(buffer, epochs=rounds, batch_size=rows)
    return (time.perf_counter() - begun) / rounds


def measure_averaging(args: argparse.Namespace) -> None:
    """What the mean gradient of all workers costs, and what it would cost if gradients were sent."""
    sizes = [gradient.numel() for gradient in StrategyAgent(seed=0).learner().gradients]
    kinds: list[Callable[[int, int], float]] = [
        partial(meeting, message=share_transition),
        batch_of,
        partial(meeting, message=partial(reduce_gradients, sizes=sizes)),
    ]
    print(f"\nthe mean gradient ({' + '.join(map(str, sizes))} numbers) of N workers, ms")
    print(f"{'':9}{'once a stage:':22}{'at every batch:':22}instead of both, at every batch:")
    print(f"{'workers':9}{'share a transition':22}{'steps on N x 128':22}send the gradients")
    for n in NUMBERS:
        found = [[1e3 * kind(n, args.updates) for _ in range(args.rounds)] for kind in kinds]
        print(f"{n:7}  " + "".join(f"{spread(times, 2):22}" for times in found).rstrip())


# -- the command -------------------------------------------------------------------------------------------------


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--episodes", type=int, default=120, help="of a search (default: 120)")
    parser.add_argument("--epochs", type=int, help="of an episode; by default the task's")
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    parser.add_argument("--updates", type=int, default=100, help="messages or batches timed at a time (default: 100)")
    parser.add_argument("--skip-episodes", action="store_true", help="measure the averaging alone")
    parser.add_argument("--search", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if min(args.episodes, args.rounds, args.updates) < 1:
        parser.error("--episodes, --rounds and --updates must be at least 1")
    return args


def main() -> None:
    """Measure and print."""
    args = arguments()
    quiet()
    if args.search:
        workers, episodes, begun = args.search
        search(int(workers), int(episodes), args.epochs, float(begun))
        return
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, lightning {L.__version__}, {platform.machine()}; medians of {args.rounds} "
          "rounds [min, max]")  # fmt: skip
    if not args.skip_episodes:
        measure_episodes(args)
    measure_averaging(args)


if __name__ == "__main__":
    main()
