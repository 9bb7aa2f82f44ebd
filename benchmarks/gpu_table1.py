"""The first row of the paper's Table 1 on one GPU: ResNet-18 on CIFAR-10 with 40 % uniform label noise.

    export PYTHONPATH=src; table1="python benchmarks/gpu_table1.py"; both="--data cifar10.npz --out runs/table1"

Not yet run on a GPU. Meant for one H100 (16 cores), three commands of at most ten minutes a session; --budget counts
from the end of the imports, and the rest of the ten minutes is for them and for stopping. A session that searches:

    $table1 time $both --processes 1 2 4 --budget 540    # once, some minutes: which --workers gives most episodes?
    $table1 search $both --workers 2 --budget 540        # and again, until nothing is left

A session that trains, one seed of each method, side by side on the GPU; the same command up to three times:

    for method in base law; do $table1 train $both --method $method --seed 0 --budget 540 & done; wait
    $table1 report $both

Every command goes on where the one before stopped: a search after its last round of episodes, a training after its last
epoch. Checkpoints (train/*.ckpt, 90 MB each) are needed until a training has ended; what is to be kept for the next
session is small: ``tar czf table1.tgz --exclude='*.ckpt' runs/table1``.

Does it run at all? On one core of a busy x86-64 server CPU (torch 2.15.0, lightning 2.6.6), with the real ResNet-18 and
a file of the first 800 training and 200 test images of CIFAR-10:

    tiny="--data tiny.npz --out /tmp/proof"; of="--train-size 600 --epochs 3 --batch-size 32 --seed 0"
    short="--search-size 160 --val-size 40 --search-epochs 2 --search-batch-size 16"
    $table1 search $tiny $short --episodes 2 --eval-every 2 --eval-seeds 1
    $table1 train $tiny $of --method base --budget 60; $table1 train $tiny $of --method base
    $table1 train $tiny $of --method law; $table1 report $tiny

    search: 2 of 2 episodes, 108.6 s each in this command; the best strategy's validated gain is +0.00 points
    left: nothing
    base_0: 1 of 3 epochs; the same command goes on
    base_0: test accuracy 10.50 %, 104 s
    law_0: test accuracy 11.00 %, 94 s
    method    seeds   mean %     sd   minus base       95% interval the paper
    -------------------------------------------------------------------------
    base          1    10.50      -
    law           1    11.00      -        +0.50           one seed      +6.9

These accuracies mean nothing: chance is 10 %, and the strategy is the one that the search began with.

- The paper's set-up: a search on 20,000 training images, validated on 5,000 others with their true labels; then plain
  training and training with the strategy, with the same noise: 200 epochs, batches of 128, SGD of rate 0.1 (a tenth
  when stages 10, 13 and 16 of 20 begin), momentum 0.9, weight decay 2e-5; images padded by 4, cropped, mirrored,
  standardised. Both train on the 45,000 images that do not validate, as the strategy follows the validation accuracy.
  Test accuracy after the last epoch; test data choose nothing.
- Ours beside it: bfloat16, and episodes of 24 epochs in batches of 256, so that one should take well under a minute.
  How much noise a network memorises, and so what weights can gain, depends on the length: a strategy of short episodes
  need not be the best one for 200 epochs.
- Images stay on the GPU as uint8, and whole batches are augmented there (``table1/images.py``). An epoch's random
  numbers are drawn at its beginning from torch's global CPU generator, which the callback keeps: the reference is plain
  training, bit for bit where the machine computes deterministically.
- ``--compile`` (torch.compile, of trainings only) is off by default: it costs every command its compilation, and a
  search cannot have it, as a copy of a compiled network, such as the reference, is not compiled.
- ``--seed-pool`` trains each warm-up and reference once, but then the GPU must give the same bits every time: it
  turns on Lightning's ``deterministic`` in place of cuDNN's choice of the fastest algorithm.
- ``--out`` holds one experiment: commands with other settings are refused. The strategy is that of the first training
  with it, however the search goes on afterwards.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from law_lightning.search.workers import WorkerLostError
from quiet import quiet
from rivals.rows import read_rows
from table1.budget import Budget
from table1.folder import RESULTS
from table1.report import table
from table1.searching import Plan, search
from table1.task import NETWORKS, Training
from table1.timing import measure_together
from table1.training import METHODS, Job, train

ERRORS = (ValueError, OSError, ImportError, MisconfigurationException, WorkerLostError)


def searching_of(args: argparse.Namespace) -> Training:
    """How an episode trains."""
    deterministic = args.seed_pool > 0  # a kept reference must be the same bit for bit
    return _training(args, args.search_epochs, args.search_batch_size, args.search_size, args.val_size, deterministic)


def training_of(args: argparse.Namespace) -> Training:
    """How the final networks train: on all data that do not validate."""
    return _training(
        args, args.epochs, args.batch_size, args.train_size, args.val_size, args.deterministic, args.compile
    )


def _training(
    args: argparse.Namespace, epochs: int, batch_size: int, train_size: int | None, val_size: int,
    deterministic: bool, compiled: bool = False,
) -> Training:  # fmt: skip
    accelerator = args.accelerator
    if accelerator == "auto":
        accelerator = "gpu" if torch.cuda.is_available() else "cpu"
    return Training(
        epochs, batch_size, train_size, val_size, args.noise, args.noise_seed, args.network, args.lr, accelerator,
        args.precision or ("bf16-mixed" if accelerator == "gpu" else "32-true"), compiled, deterministic,
    )  # fmt: skip


def plan_of(args: argparse.Namespace, workers: int) -> Plan:
    """How long and how widely to search."""
    return Plan(args.episodes, workers, args.search_seed, args.eval_every, args.eval_seeds, args.seed_pool)


# -- the commands ------------------------------------------------------------------------------------------------


def run_time(args: argparse.Namespace, budget: Budget) -> None:
    """Measure what an episode and a training take, for each number of processes that share the machine."""
    searching, training = searching_of(args), training_of(args)
    for processes in args.processes:
        costs = measure_together(processes, args.data, searching, training, args.steps)
        print(f"{processes} at a time: {costs.episode:.1f} s an episode, {costs.single:.1f} s an evaluation's network, "
              f"{costs.base:.0f} s a plain training, {costs.law:.0f} s with a strategy")  # fmt: skip
        if args.budget is not None:
            episodes = costs.episodes_in(args.budget, plan_of(args, processes))
            print(f"  {args.budget:.0f} s: {episodes} episodes of a new search, or {processes} at a time of "
                  f"{args.budget / costs.law:.2f} trainings with a strategy")  # fmt: skip


def run_search(args: argparse.Namespace, budget: Budget) -> None:
    """Search, or go on searching."""
    plan = plan_of(args, args.workers)
    print(search(args.data, args.out, searching_of(args), plan, budget, progress=sys.stderr.isatty()))


def run_train(args: argparse.Namespace, budget: Budget) -> None:
    """Train each seed that is not done yet."""
    training = training_of(args)
    for seed in args.seed:
        job = Job(args.data, args.out, training, args.method, seed, args.strategy, args.save_every)
        print(train(job, budget), flush=True)


def run_report(args: argparse.Namespace, budget: Budget) -> None:
    """Print the table of what is there."""
    print(table(read_rows(args.out / RESULTS)))


# -- the command line --------------------------------------------------------------------------------------------


def _common() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--data", type=Path, required=True, help="CIFAR-10 as an .npz file")
    parser.add_argument("--out", type=Path, required=True, help="folder of the experiment")
    parser.add_argument("--budget", type=_positive, help="seconds for this command; it stops before")
    parser.add_argument("--noise", type=float, default=0.4, help="probability that a training label is redrawn")
    parser.add_argument("--noise-seed", type=int, default=0)
    parser.add_argument("--val-size", type=_count, default=5000, help="validation images, with their true labels")
    parser.add_argument("--network", choices=NETWORKS, default="resnet18", help="small: for tests")
    parser.add_argument("--lr", type=_positive, default=0.1)
    parser.add_argument("--accelerator", choices=("auto", "cpu", "gpu"), default="auto")
    parser.add_argument("--precision", help="Lightning's; by default bf16-mixed on a GPU, 32-true on a CPU")
    return parser


def _of_search() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--search-size", type=_count, default=20000, help="training images of an episode")
    parser.add_argument("--search-epochs", type=_count, default=24, help="of an episode")
    parser.add_argument("--search-batch-size", type=_count, default=256)
    parser.add_argument("--search-seed", type=int, default=0)
    parser.add_argument("--episodes", type=_count, default=60, help="in all, over all commands; may grow")
    parser.add_argument("--eval-every", type=_count, default=10, help="episodes between two evaluations")
    parser.add_argument("--eval-seeds", type=_count, default=4, help="networks of an evaluation")
    parser.add_argument("--seed-pool", type=int, default=0, help="seeds trained plainly only once")
    return parser


def _of_training() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--train-size", type=_count, help="training images; by default all but those that validate")
    parser.add_argument("--epochs", type=_count, default=200)
    parser.add_argument("--batch-size", type=_count, default=128)
    parser.add_argument("--compile", action="store_true", help="the network, by torch.compile")
    parser.add_argument("--deterministic", action="store_true", help="the same bits every time on a GPU, too; slower")
    return parser


def _positive(text: str) -> float:
    number = float(text)
    if not number > 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return number


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    commands = parser.add_subparsers(dest="command", required=True)
    common, searching, training = _common(), _of_search(), _of_training()
    add = partial(commands.add_parser, formatter_class=argparse.ArgumentDefaultsHelpFormatter)

    command = add("time", parents=[common, searching, training], help="measure this machine")
    command.add_argument("--steps", type=_count, default=40, help="of the shorter of two runs")
    command.add_argument("--processes", type=_count, nargs="+", default=[1], help="at a time")
    command.set_defaults(run=run_time)

    command = add("search", parents=[common, searching], help="search, or go on searching")
    command.add_argument("--workers", type=_count, default=1, help="episodes at a time, on one GPU")
    command.set_defaults(run=run_search)

    command = add("train", parents=[common, training], help="train, or go on training")
    command.add_argument("--method", choices=METHODS, required=True)
    command.add_argument("--seed", type=int, nargs="+", default=[0])
    command.add_argument("--strategy", type=Path, help="by default the search's, as it is at the first training")
    command.add_argument("--save-every", type=_count, default=10, help="epochs between two checkpoints")
    command.set_defaults(run=run_train)

    command = add("report", parents=[common], help="print the table")
    command.set_defaults(run=run_report)
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> None:
    """Run a command."""
    args = arguments(given)
    quiet()
    try:
        args.run(args, Budget(args.budget))
    except ERRORS as error:
        raise SystemExit(f"gpu_table1: {error}") from None


if __name__ == "__main__":
    main()
