"""What workers give: episodes a minute of a search with one worker and with two.

    nox -s workers

2 cores of an x86-64 server CPU with nothing else to do, torch 2.15.0, lightning 2.6.6, the default agent of three
members; 2026-11-25; options --episodes 90 --rounds 2:

search                  episodes a minute       of 2 searches      start-up in s
----------------------  ----------------------  -----------------  -----------------
1 worker                58.7 [57.8, 59.6]       0.50 [0.50, 0.51]  4.0 [3.8, 4.1]
2 searches of 1 worker  117.2 [116.7, 117.8]    1.00 [1.00, 1.00]  4.9 [4.5, 5.3]
2 workers               107.4 [106.8, 108.0]    0.92 [0.91, 0.93]  12.4 [12.0, 12.8]

Two workers give 1.83 times the episodes of one. (Commit f3068ef, whose members take turns at learning.)

- Episodes: digits_noise40 of ``tasks.py``. Every round runs, one after the other, a search with 1 worker, two such
  searches at the same time that know nothing of each other, and a search with 2 workers; each has the same number of
  episodes. The independent searches show what two cores give at best.
- A rate counts from when the last worker has its data until the search returns. What comes before it is start-up:
  processes, imports, data.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import lightning as L
import torch
from tqdm import tqdm

import tasks
from common import machine, quiet, spread, table
from law_lightning import StrategyAgent, StrategySearch

#: Name: workers of a search, and searches side by side.
KINDS = {"1 worker": (1, 1), "2 searches of 1 worker": (1, 2), "2 workers": (2, 1)}


def make_marked(marks: Path) -> L.LightningDataModule:
    """The data; a file says when they were ready, by a clock that processes share."""
    datamodule = tasks.make_digits(0.4)
    datamodule.setup("fit")
    (marks / f"{os.getpid()}").write_text(repr(time.time()))
    return datamodule


def search(workers: int, episodes: int, epochs: int) -> tuple[float, float]:
    """Run a search in this process; when all had their data, and the seconds it took from then on."""
    quiet()
    torch.set_num_threads(1)
    options = {"max_epochs": epochs, "accelerator": "cpu"}
    with tempfile.TemporaryDirectory() as folder:
        searching = StrategySearch(
            StrategyAgent(seed=0), episodes, workers, trainer_kwargs=options, eval_every=episodes, eval_seeds=2,
            check_seeds=0, progress=False,
        )  # fmt: skip
        searching.run(tasks.make_mlp, partial(make_marked, Path(folder)))
        end = time.time()
        ready = max(float(mark.read_text()) for mark in Path(folder).iterdir())
    return ready, end - ready


def timed(workers: int, copies: int, episodes: int, epochs: int) -> tuple[float, float]:
    """Start-up in seconds and episodes a minute of searches that run side by side, each in a fresh process."""
    begun = time.time()
    with ProcessPoolExecutor(copies, mp_context=get_context("spawn")) as pool:
        running = [pool.submit(search, workers, episodes, epochs) for _ in range(copies)]
        results = [each.result() for each in running]
    # Copies that end at different times: each has a rate of its own while both run.
    return max(ready for ready, _ in results) - begun, sum(episodes * 60 / took for _, took in results)


def main(given: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--episodes", type=int, default=120, help="of a search (default: 120)")
    parser.add_argument("--epochs", type=int, default=60, help="of an episode (default: 60)")
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    args = parser.parse_args(given)
    if min(args.episodes, args.epochs, args.rounds) < 1:
        parser.error("--episodes, --epochs and --rounds must be at least 1")
    torch.set_num_threads(1)
    results: dict[str, list[tuple[float, float]]] = {name: [] for name in KINDS}
    with tqdm(total=args.rounds * len(KINDS), disable=None) as bar:
        for _ in range(args.rounds):
            for name, kind in KINDS.items():
                results[name].append(timed(*kind, args.episodes, args.epochs))
                bar.update()
    best = [rate for _, rate in results["2 searches of 1 worker"]]
    rows = [["search", "episodes a minute", "of 2 searches", "start-up in s"]]
    for name, pairs in results.items():
        startups, rates = zip(*pairs, strict=True)
        shares = [rate / top for rate, top in zip(rates, best, strict=True)]
        rows.append([name, spread(rates, 1), spread(shares), spread(startups, 1)])
    print(f"{machine()}; medians of {args.rounds} rounds [min, max]\n\n{table(rows)}")


if __name__ == "__main__":
    main()
