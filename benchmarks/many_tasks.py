"""A search over many tasks: one strategy, from the rule, learns on some families of data and is tested on another.

    python benchmarks/many_tasks.py --out runs/many_tasks

2 cores of an x86-64 server CPU shared with other work, torch 2.15.0, lightning 2.6.6; 2026-11-29; five draws. Table in
docs/general.md, all rows in docs/general/many_tasks.jsonl. The strategy that has not seen MNIST is there within a point
of the rule on noisy labels, and costs 1.5 points on clean ones with SGD.

- 96 episodes take the tasks of the other families in turn, each with a split, labels and first weights of its own:
  MLPs that memorise, clean labels, 20 and 40 % redrawn and 30 % pair noise, SGD and Adam (see general.py). One strategy
  and one replay buffer go through all of them, as in a search on one task.
- The strategy starts from the rule ``general``, and has the loss and the entropy as features beside the margin. It is
  that of the last episode; nothing is chosen on the family that was left out.
- Gains in points of test accuracy over plain training, mean over draws: last epoch, best epoch by validation. Both the
  rule and the strategy are applied in one training.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

import general
from common import quiet
from law_lightning import LAWCallback, ReplayBuffer, StrategyAgent
from rivals.methods import Row
from rivals.report import completed

FAMILIES = ("digits", "mnist", "mnist1d")
TASKS = [*itertools.product(("clean", "u20", "u40", "p30"), ("sgd", "adam"))]
METHODS = ("plain", "apply", "searched")


def search(left_out: str, episodes: int) -> StrategyAgent:
    """A strategy that has learned on the families other than ``left_out``."""
    agent = StrategyAgent(features=["margin", "loss", "entropy"], init="general", renormalize=True, noise_decay=0.97)
    buffer = ReplayBuffer()
    general.CALLBACKS["episode"] = lambda wrong: LAWCallback(agent, buffer=buffer, keep="target")
    tasks = [*itertools.product((each for each in FAMILIES if each != left_out), TASKS)]
    order = np.random.default_rng(0).permutation(len(tasks))
    for episode in tqdm(range(episodes), unit="episode", desc=f"without {left_out}"):
        family, (noise, optimizer) = tasks[order[episode % len(tasks)]]
        split = 1000 + episode
        parts = general.splits(family, noise, split, None)[:3]
        general.fit((family, "mlp", noise, optimizer, ""), "episode", split, *parts)
    return agent


def run(*job: Any) -> Row:
    """A training of ``general.py``, without its curve."""
    row = general.run(job[:-1], job[-1], None)
    return {name: value for name, value in row.items() if name != "curve"}


def main() -> None:
    """Search without each family, test on it, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--left-out", nargs="+", choices=FAMILIES, default=["digits", "mnist"])
    parser.add_argument("--episodes", type=int, default=96)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("runs/many_tasks"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    quiet()
    args.out.mkdir(parents=True, exist_ok=True)
    for family in args.left_out:
        file = args.out / f"without_{family}.safetensors"
        if not file.exists():
            search(family, args.episodes).save(file)
        general.CALLBACKS["searched"] = lambda wrong, file=file: LAWCallback(file, mode="apply")
        jobs = [
            (family, "mlp", noise, optimizer, method, draw)
            for draw in range(100, 100 + args.draws)
            for noise, optimizer in TASKS
            for method in METHODS
        ]
        rows = completed(jobs, args.out / "results.jsonl", run)
    print(general.report(rows, METHODS))


if __name__ == "__main__":
    main()
