"""What each method costs: the time of a step as a multiple of a plain Lightning step, all in one run.

    python benchmarks/methods.py

2 cores of an x86-64 server CPU, torch 2.15.0, lightning 2.6.6; 2026-11-29 (commit 9a3a16c); a plain step took 106 ms;
medians of 3 rounds [min, max], beside one other process:

method           times a plain step  aim
---------------  ------------------  ----
law (apply)      1.00 [0.98, 1.01]   1.05
law (search)     1.99 [1.97, 2.01]
focal            0.99 [0.98, 1.04]
class_balanced   0.99 [0.92, 1.02]
self_paced       0.96 [0.93, 0.98]
mentornet        0.98 [0.95, 0.99]
co_teaching      1.97 [1.93, 2.03]   2.05
l2rw             3.17 [3.06, 3.26]   3.3
meta_weight_net  3.81 [3.81, 3.99]   3.9

Ratios below one are measurement error: the other process took its share of caches and memory.

On 2026-11-25 (commit 4ec94a1) the published implementations took, of a step of their own network, 5.49 [5.46, 5.57]
(L2RW, danieltan07/learning-to-reweight-examples), 6.32 [6.12, 6.33] (Meta-Weight-Net, xjtushujun/meta-weight-net) and
2.02 [1.99, 2.03] (Co-teaching, bhanML/Co-teaching): their layers and losses in the order of their own scripts, on the
same batches. (``benchmarks/published.py`` of that commit.) L2RW took 3.01 then, with a forward pass of its own for the
dual numbers that took the convolutions' outputs from the step; now it is torch's.

- network: ResNet-32 for CIFAR (BatchNorm in training mode), batches of 32 random 3x32x32 images, SGD with momentum, one
  thread, processor time. A round is one fit of every method, each round starting with another; ratios are taken
  within a round. A fit's first steps are not counted. Clean batches are as large as the training's.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from itertools import pairwise
from statistics import median
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader, TensorDataset
from tqdm import tqdm

from common import QUIET, keep_freed_memory, machine, quiet, rotated, spread, table
from law_lightning import (
    ClassBalancedWeighting,
    CoTeachingCallback,
    FocalWeighting,
    GCEWeighting,
    L2RWCallback,
    LAWCallback,
    MentorNetWeighting,
    MetaWeightNetCallback,
    SelfPacedWeighting,
    StrategyAgent,
)
from law_lightning import WeightingCallback as Weigh
from law_lightning.models import ImageClassifier, cifar_resnet32

CLASSES, STAGES = 10, {"num_stages": 1}
PLAIN = "plain"
METHODS: dict[str, Callable[[], list[L.Callback]]] = {
    PLAIN: list,
    "law (apply)": lambda: [LAWCallback(agent(), mode="apply")],
    "law (search)": lambda: [LAWCallback(agent(), keep="target")],
    "focal": lambda: [Weigh(FocalWeighting(2.0), **STAGES)],
    "gce": lambda: [Weigh(GCEWeighting(), **STAGES)],
    "class_balanced": lambda: [Weigh(ClassBalancedWeighting(), **STAGES)],
    "self_paced": lambda: [Weigh(SelfPacedWeighting(), **STAGES)],
    "mentornet": lambda: [Weigh(MentorNetWeighting(), **STAGES)],
    "co_teaching": lambda: [CoTeachingCallback(0.4, gradual_epochs=1, **STAGES)],
    "l2rw": lambda: [L2RWCallback(**STAGES)],
    "meta_weight_net": lambda: [MetaWeightNetCallback(**STAGES)],
}
AIMS = {"law (apply)": "1.05", "co_teaching": "2.05", "l2rw": "3.3", "meta_weight_net": "3.9"}


def agent() -> StrategyAgent:
    """A strategy of one stage without a warm-up."""
    return StrategyAgent(num_stages=1, warmup_stages=0)


class Clock(L.Callback):
    """Reads the time at the end of every step, after all other callbacks."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_end(self, *args: Any) -> None:
        """A step was taken."""
        self.times.append(time.process_time())


def data(batch_size: int, steps: int) -> DataLoader[Any]:
    """Random images and labels, in memory."""
    draw = torch.Generator().manual_seed(0)
    count = batch_size * steps
    images = torch.randn(count, 3, 32, 32, generator=draw)
    return DataLoader(TensorDataset(images, torch.arange(count) % CLASSES), batch_size=batch_size)


def step_of(method: str, loader: DataLoader[Any]) -> float:
    """Seconds of a step of a method: the median over a fit."""
    L.seed_everything(0, verbose=False)
    clock = Clock()
    clean = data(loader.batch_size or 1, 1)  # also what is validated on, which is not timed
    callbacks = [*METHODS[method](), clock]
    trainer = L.Trainer(**QUIET, accelerator="cpu", max_epochs=1, limit_val_batches=1, callbacks=callbacks)
    trainer.fit(ImageClassifier(cifar_resnet32((3, 32, 32), CLASSES), lr=0.01), loader, clean)
    steps = [after - before for before, after in pairwise(clock.times)]
    return median(steps[2:-1])  # the last one ends a stage


def measure(batch_size: int, steps: int, repeats: int) -> list[dict[str, float]]:
    """Seconds of a step by method, a round each."""
    loader, rounds = data(batch_size, steps + 4), []
    with tqdm(total=(repeats + 1) * len(METHODS), unit="fit", disable=None) as bar:
        for index in range(repeats + 1):  # the first warms up
            taken = {}
            for name in rotated(list(METHODS), index):
                bar.set_description(name)
                taken[name] = step_of(name, loader)
                bar.update()
            rounds.append(taken)
    return rounds[1:]


def main(given: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What each method costs.")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=5, help="counted steps of a fit (default: 5)")
    parser.add_argument("--repeats", type=int, default=3, help="counted rounds (default: 3)")
    args = parser.parse_args(given)
    if min(args.batch_size, args.steps, args.repeats) < 1:
        parser.error("--batch-size, --steps and --repeats must be at least 1")
    quiet()
    keep_freed_memory()
    torch.set_num_threads(1)
    rounds = measure(args.batch_size, args.steps, args.repeats)
    plain = 1e3 * median(taken[PLAIN] for taken in rounds)
    print(f"{machine()}; plain step {plain:.0f} ms, batch {args.batch_size}\n")
    ratios = {name: [taken[name] / taken[PLAIN] for taken in rounds] for name in METHODS if name != PLAIN}
    rows = [[name, spread(values), AIMS.get(name, "")] for name, values in ratios.items()]
    print(table([["method", "times a plain step", "aim"], *rows]))


if __name__ == "__main__":
    main()
