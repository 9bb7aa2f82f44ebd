"""What each method costs: the time of a step as a multiple of a plain Lightning step, all in one run.

    python benchmarks/methods.py --peers FOLDER

2 cores of an x86-64 server CPU, torch 2.15.0, lightning 2.6.6; a plain step took 157 ms; medians of 3 rounds
[min, max]:

                           times a plain step   aim
law (apply)                 1.01 [0.99, 1.02]   1.05
law (search)                2.01 [2.00, 2.04]
focal                       1.03 [1.01, 1.04]
class_balanced              1.02 [1.00, 1.03]
self_paced                  1.02 [0.99, 1.03]
mentornet                   1.03 [1.00, 1.04]
co_teaching                 2.05 [2.00, 2.06]   2.05
l2rw                        3.01 [2.92, 3.09]   3.1
meta_weight_net             3.59 [3.52, 3.63]   3.9
published l2rw              5.49 [5.46, 5.57]
published meta_weight_net   6.32 [6.12, 6.33]
published co_teaching       2.02 [1.99, 2.03]

Of L2RW, a clean step costs 1, the step itself 1 and the pass with dual numbers 0.95; that of these takes the
convolutions' outputs from the step. Co-teaching is at its aim: eleven rounds of it and the
plain step alone gave 2.04 [1.98, 2.08]. Since then the outputs are copied; a run without --peers, while the machine was
slower (a plain step took 223 ms), gave l2rw 2.98 [2.93, 3.01], meta_weight_net 3.49 [3.41, 3.53], co_teaching 2.01
[1.98, 2.14] and law (apply) 1.01 [1.00, 1.13].

- network: ResNet-32 for CIFAR (BatchNorm in training mode), batches of 32 random 3x32x32 images, SGD with momentum, one
  thread, processor time. A round is one fit of every method, each round starting with another; ratios are taken
  within a round. A fit's first steps are not counted. Clean batches are as large as the training's.
- peers: the published implementations, of which ``--peers`` holds the clones ``meta-weight-net`` (xjtushujun),
  ``learning-to-reweight-examples`` (danieltan07) and ``Co-teaching`` (bhanML). Their layers and losses run here in the
  order of their own scripts, on the same batches. Meta-Weight-Net brings a ResNet-32 built of its own layers; L2RW,
  whose layers are the same but whose networks are not, runs on it too. Their plain step is a step of that network. What
  they print or move to a GPU is left out.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader, TensorDataset
from tqdm import tqdm

from law_lightning import CoTeachingCallback, L2RWCallback, LAWCallback, MetaWeightNetCallback, StrategyAgent
from law_lightning import WeightingCallback as Weigh
from law_lightning.models import ImageClassifier, cifar_resnet32
from law_lightning.weighting import ClassBalancedWeighting, FocalWeighting, MentorNetWeighting, SelfPacedWeighting
from overhead import keep_freed_memory, machine
from published import PEERS, Peer, load_peers
from quiet import quiet

CLASSES, STAGES = 10, {"num_stages": 1}
PLAIN = "plain"
METHODS: dict[str, Callable[[], L.Callback | None]] = {
    PLAIN: lambda: None,
    "law (apply)": lambda: LAWCallback(strategy(), mode="apply"),
    "law (search)": lambda: LAWCallback(StrategyAgent(num_stages=1, warmup_stages=0), keep="target"),
    "focal": lambda: Weigh(FocalWeighting(2.0), **STAGES),
    "class_balanced": lambda: Weigh(ClassBalancedWeighting(), **STAGES),
    "self_paced": lambda: Weigh(SelfPacedWeighting(), **STAGES),
    "mentornet": lambda: Weigh(MentorNetWeighting(), **STAGES),
    "co_teaching": lambda: CoTeachingCallback(0.4, gradual_epochs=1, **STAGES),
    "l2rw": lambda: L2RWCallback(**STAGES),
    "meta_weight_net": lambda: MetaWeightNetCallback(**STAGES),
}
AIMS = {"law (apply)": 1.05, "co_teaching": 2.05, "l2rw": 3.1, "meta_weight_net": 3.9}


def strategy() -> StrategyAgent:
    """A strategy that weighs samples otherwise than by one."""
    agent = StrategyAgent(num_stages=1, warmup_stages=0)
    torch.nn.init.constant_(agent.actor.network[-1].bias, -0.5)  # type: ignore[arg-type]
    return agent


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


def step_of(method: str, loader: DataLoader[Any], skipped: int) -> float:
    """Seconds of a step of a method: the median over a fit."""
    L.seed_everything(0, verbose=False)
    clock, callback = Clock(), METHODS[method]()
    clean = data(loader.batch_size or 1, 1)  # also what is validated on, which is not timed
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        callbacks=[*([] if callback is None else [callback]), clock],
        num_sanity_val_steps=0,
        limit_val_batches=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(ImageClassifier(cifar_resnet32((3, 32, 32), CLASSES), lr=0.01), loader, clean)
    return median_step(clock.times, skipped)


def step_of_peer(step: Peer, loader: DataLoader[Any], skipped: int) -> float:
    """Seconds of a step of a published implementation."""
    times = []
    for x, y in loader:
        step(x, y)
        times.append(time.process_time())
    return median_step(times, skipped)


def median_step(times: list[float], skipped: int) -> float:
    """The median time from one step's end to the next."""
    steps = [after - before for before, after in pairwise(times)]
    return statistics.median(steps[skipped:-1])  # the last one ends a stage


def measure(args: argparse.Namespace) -> tuple[dict[str, list[float]], float]:
    """Ratios to the plain step by method, and the plain step in seconds."""
    loader = data(args.batch_size, args.steps + 3)
    peers = {} if args.peers is None else load_peers(args.peers)
    names = [*METHODS, *peers]
    rounds: list[dict[str, float]] = []
    with tqdm(total=(args.repeats + 1) * len(names), unit="fit") as bar:
        for index in range(args.repeats + 1):  # the first warms up
            taken = {}
            place = index % len(names)
            for name in names[place:] + names[:place]:
                bar.set_description(name)
                if name in METHODS:
                    taken[name] = step_of(name, loader, skipped=2)
                else:
                    taken[name] = step_of_peer(peers[name](), loader, skipped=2)
                bar.update()
            if index:
                rounds.append(taken)
    ratios = {name: [taken[name] / taken[PEERS.get(name, PLAIN)] for taken in rounds] for name in names}
    return ratios, statistics.median(taken[PLAIN] for taken in rounds)


def main() -> None:
    """Measure and print."""
    quiet()
    keep_freed_memory()
    parser = argparse.ArgumentParser(description="What each method costs.")
    parser.add_argument("--peers", type=Path, help="folder of the published implementations' clones")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=5, help="counted steps of a fit (default: 5)")
    parser.add_argument("--repeats", type=int, default=3, help="counted rounds (default: 3)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    ratios, plain = measure(args)
    print(f"{machine('cpu')}; plain step {1e3 * plain:.0f} ms, batch {args.batch_size}")
    print(f"{'':32}  times a plain step   aim")
    for name, values in ratios.items():
        spread = f"{statistics.median(values):.2f} [{min(values):.2f}, {max(values):.2f}]"
        print(f"{name:32}  {spread:19}  {AIMS.get(name, '')}")


if __name__ == "__main__":
    main()
