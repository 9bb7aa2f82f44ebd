"""What workers give: episodes a minute of 1 and 2 workers, and the cost of averaging gradients over more.

    nox -s workers

2 cores of an x86-64 server CPU with little beside it; torch 2.15.0, lightning 2.6.6; options --episodes 12
--rounds 2 --updates 10; medians of 2 rounds [min, max]:

                        episodes a minute       of 2 searches         start-up in s
1 worker                57.2 [55.4, 59.1]       0.49 [0.47, 0.51]     4.0 [4.0, 4.0]
2 searches of 1 worker  116.8 [116.8, 116.9]    1.00 [1.00, 1.00]     3.9 [3.9, 4.0]
2 workers               78.7 [77.4, 80.0]       0.67 [0.66, 0.69]     8.2 [8.2, 8.3]

averaging an update's gradients (18848 + 9520 numbers), 2 cores; m = 4.22 ms
workers               1     2     4      8      16      32      64
measured, ms       0.16  2.71  8.42  40.21  126.61  307.15  759.25
model, ms          0.00  8.44  25.3  59.09  126.61  261.67  531.78

So two workers give 1.38 times the episodes of one, short of the 1.8 that is aimed at: the averaging, 2.7 ms beside an
update of 0.9 ms, costs more than the update itself.

- Episodes: digits_noise40 of ``tasks.py``. Every round runs, one after the other, a search with 1 worker, two searches
  with 1 worker at the same time that know nothing of each other, and one search with 2 workers; the latter two have
  twice the episodes of the first. The independent searches show what two cores give at best.
- A rate counts from when the last worker has its data until the search returns. What comes before it is start-up:
  processes, imports, data.
- Averaging: GlooWorkers.average on a tensor of the size of the critics' gradient and one of the actor's, which is what
  one update does, in threads of one process. There are more of them than cores, so they share the cores: the measured
  times of many workers are those of this machine, not of as many machines.
- Model: a ring has 2(N - 1) messages one after the other, each of 1/N of the gradient, which is small: t = 2(N - 1) m,
  with m, the cost of a message, the median of what the times of N above the number of cores say. Where workers share
  cores, most of m is waiting for a core.
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
from functools import partial
from pathlib import Path

import lightning as L
import torch
import torch.distributed as dist
from tqdm import tqdm

import tasks
from law_lightning import StrategyAgent, StrategySearch
from law_lightning.search.workers import GlooWorkers
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
            StrategyAgent(seed=0), episodes, workers, trainer_kwargs=options, eval_every=episodes, eval_seeds=workers,
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
        "2 workers": partial(timed, 2, 2 * args.episodes, args.epochs),
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


def averaging(workers: int, sizes: list[int], updates: int) -> float:
    """Seconds that the averages of one update take with so many workers, as the slowest of them sees it."""
    store, took, errors = dist.HashStore(), [0.0] * workers, []
    together = threading.Barrier(workers)

    def work(rank: int) -> None:
        try:
            group = GlooWorkers(store, rank, workers)
            gradients = [torch.full((size,), float(rank)) for size in sizes]
            for update in range(updates + 1):
                if update == 1:  # the first finds the others
                    together.wait()
                    begun = time.perf_counter()
                for gradient in gradients:
                    group.average(gradient)
            took[rank] = (time.perf_counter() - begun) / updates
            mean = (workers - 1) / 2
            if not all(bool((gradient == mean).all()) for gradient in gradients):
                raise AssertionError("the average is wrong")
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


def measure_averaging(args: argparse.Namespace) -> None:
    """The cost of an update's averages by the number of workers, and the model."""
    sizes = [gradient.numel() for gradient in StrategyAgent(seed=0).learner().gradients]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    times = {n: [averaging(n, sizes, args.updates) for _ in range(args.rounds)] for n in NUMBERS}
    crowded = [n for n in NUMBERS if n > cores] or NUMBERS[-1:]
    cost = statistics.median(statistics.median(times[n]) / (2 * (n - 1)) for n in crowded)
    print(f"\naveraging an update's gradients ({' + '.join(map(str, sizes))} numbers), {cores} cores; m = "
          f"{1e3 * cost:.2f} ms")  # fmt: skip
    print(f"{'workers':>7}  {'measured, ms':28}{'model, ms':>10}")
    for n in NUMBERS:
        print(f"{n:7}  {spread([1e3 * each for each in times[n]], 2):28}{1e3 * cost * 2 * (n - 1):10.2f}")


# -- the command -------------------------------------------------------------------------------------------------


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--episodes", type=int, default=12, help="of one worker (default: 12)")
    parser.add_argument("--epochs", type=int, help="of an episode; by default the task's")
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument("--updates", type=int, default=100, help="averages timed at a time (default: 100)")
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
