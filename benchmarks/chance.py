"""How often a search announces a gain where there can be none: labels drawn at random, of training and validation.

    python benchmarks/chance.py --searches 40 --out runs/chance

2 cores of an x86-64 server CPU shared with other work, torch 2.15.0; 2026-11-29; rows in docs/search/chance.jsonl:

    40 searches on random labels; of these announce a gain: 1
    with a gain above zero on the seeds they chose by: 37

- Each search has its own draw of digits, 500 for training and 500 for validation, and the MLP of ``tasks.py`` for 60
  epochs. It has 40 episodes, 5 evaluations (one before the first episode), and a check on 8 fresh seeds.
- Announced: the interval of the gain on fresh seeds lies above zero (``law_lightning.search.gain``). Beside it how
  often the gain that the strategy was chosen by is above zero: what a search would say without the check.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import torch
from tqdm import tqdm

from common import quiet
from law_lightning import StrategyAgent, StrategySearch
from rivals.report import append_row, points, read_rows
from tasks import make_digits, make_mlp


def search(number: int, episodes: int, epochs: int) -> dict[str, Any]:
    """A search on pure noise: what it found on the seeds it chose by, and on fresh ones."""
    quiet()
    torch.set_num_threads(1)
    result = StrategySearch(
        StrategyAgent(seed=number),
        episodes,
        trainer_kwargs={"max_epochs": epochs, "accelerator": "cpu"},
        seed=number,
        eval_every=max(1, episodes // 4),
        progress=False,
    ).run(make_mlp, partial(make_digits, 1.0, draw=number, validation=True))
    assert result.gain is not None
    return {"search": number, "best_gain": result.best_gain, **vars(result.gain)}


def report(rows: list[dict[str, Any]]) -> str:
    """The counts, and the searches that announced a gain."""
    announced = [row for row in rows if row["low"] > 0]
    lines = [
        f"{len(rows)} searches on random labels; of these announce a gain: {len(announced)}",
        f"with a gain above zero on the seeds they chose by: {sum(row['best_gain'] > 0 for row in rows)}",
        *(f"  search {row['search']}: {points(row['mean'])} from {points(row['low'])}" for row in announced),
    ]
    return "\n".join(lines)


def main(given: list[str] | None = None) -> None:
    """Search, and count."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--searches", type=int, default=40)
    parser.add_argument("--first", type=int, default=1000, help="number of the first search (default: 1000)")
    parser.add_argument("--episodes", type=int, default=40)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/chance"))
    args = parser.parse_args(given)
    path = args.out / "results.jsonl"
    done = {row["search"] for row in read_rows(path)}
    rest = [number for number in range(args.first, args.first + args.searches) if number not in done]
    pool = joblib.Parallel(args.processes, return_as="generator_unordered", batch_size=1)
    rows = pool(joblib.delayed(search)(number, args.episodes, args.epochs) for number in rest)
    for row in tqdm(rows, total=len(rest), unit="search"):
        append_row(path, row)
    print(report(read_rows(path)))


if __name__ == "__main__":
    main()
