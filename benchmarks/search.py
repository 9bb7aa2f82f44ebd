"""LAW's search against simple rivals, on the same tasks with the same number of network steps.

    python benchmarks/search.py --tasks digits_noise40 digits_tail --methods law random cem_constant --out runs/search

2 cores of x86-64 server CPUs shared with other work, torch 2.15.0, lightning 2.6.6, cma 4.5.0; 2026-11-24 to 2026-11-28
(last with commit 6397844, whose searches trained the reference of each of 8 seeds once, so that the same budget bought
more episodes: 97 instead of 54 in 120 trainings). Options --budget 120 (digits: draw 1 with 5 searches of LAW and 1 or
2 of each rival, draws 5 to 8 with one of LAW and of four rivals) and --budget 80 (CIFAR). Gains on test data in points,
mean over draws; all of it, with intervals, learning curves and what was tried, in docs/search.md:

                    LAW        best rival beside it, chosen by test data
    digits_noise40  +16.5      +14.4 (handmade); five draws, LAW is ahead
    digits_noise20   +5.9       +6.7 (handmade); five draws, LAW is behind
    digits_tail      +1.4       +2.4 (pbt); four draws, LAW is behind
    digits_clean     +0.3       +0.4 (pbt); draw 1, level
    cifar_noise40   +10.2       +9.7 (pbt); draw 0, on which LAW's default was chosen, one member
    cifar_flip       +0.1       +0.1 (constant_1; no searching rival was run); draw 1

CIFAR tasks need ``--cifar PATH`` as well, an .npz file with train_x [50000, 32, 32, 3] uint8, train_y, test_x, test_y.
``--report`` makes table and figures of what is there. The same command resumes where it was stopped; a job that fails
ends it with its error.

- Budget: network optimizer steps, given in trainings (``--budget 120``). Everything that trains a network is counted:
  candidates and their re-evaluation, LAW's targets, references, evaluations and plain networks. Validation passes are
  not; LAW has two at each stage end, population-based training one every three stages, the others one a training.
- All methods have LAW's actions: theta [5] within [-3, 3] for each of 20 stages, the first two being warm-up. A search
  sees validation data alone. What it found trains 8 networks from scratch, on seeds that all methods share and none
  searched with; its gain is their test accuracy less that of plain training on the same seeds.
- Rivals: ``handmade`` takes the best of three constants and nothing by validation (the constants are in the table,
  too); ``random`` re-evaluates the better candidates again and again; ``cem`` and ``cma`` search one theta, or a line
  from one theta to another over the stages; ``pbt`` is population-based training, whose schedule is then replayed from
  scratch. All compare candidates on shared seeds and may find that weights of one are best. ``uniform`` draws theta at
  random in every stage.
- ``general`` is the rule of ``LAWCallback()`` in one training, ``law_from_general`` LAW's search from it. That costs
  four trainings more than the budget, as what it starts with is evaluated too.
- How the rivals' settings were chosen: CEM and PBT first found nothing on digits_noise40, so they, and CMA-ES with
  CEM, were given random points to start with; the step size of CMA-ES was chosen on a quadratic function with noise.
  That was judged by the test gains of one or two searches of that task; seeds of searches and evaluation have been
  changed since.
- Splits, noise and seeds come in draws, ``--draws 1 5 6``: settings are chosen on 0, 2 to 4, 9 to 12 (once on 1 too, by
  validation data), and others are reported, by default 1. Draws share no seed, and the two of CIFAR-10 no image; those
  of the digits do.
"""

from __future__ import annotations

import argparse
import signal
import warnings
from collections.abc import Sequence
from pathlib import Path

import joblib
from tqdm import tqdm

from rivals.methods import BASE, FIXED, METHODS, Job, run_job
from rivals.report import append_row, key_of, read_rows, write_report
from tasks import DIGITS, NAMES, REPORTED, make_tasks, prepare

RESULTS = "results.jsonl"
DEFAULT_METHODS = [name for name in METHODS if name not in ("general", "law_training_accuracy", "law_from_general")]
#: Below this the rivals could not even compare their final candidates.
LEAST_BUDGET = 12


def wanted_jobs(args: argparse.Namespace) -> list[Job]:
    """All searches asked for; those of methods that search nothing, once a draw."""
    tasks = {draw: make_tasks(args.out / "data", draw) for draw in args.draws}
    return [
        Job(tasks[draw][name], method, seed, args.budget, args.eval_seeds)
        for seed in range(args.search_seeds)  # first every method once: a stopped run has something on each
        for draw in args.draws
        for name in args.tasks
        for method in dict.fromkeys([BASE, *args.methods])
        if seed == 0 or method not in FIXED
    ]


def run(jobs: Sequence[Job], processes: int, results: Path) -> None:
    """Do what is not done yet; a row is written as soon as it is known."""
    done = {key_of(row) for row in read_rows(results)}
    rest = [job for job in jobs if job.key not in done]
    # If a job fails or the run is stopped, joblib ends the other processes.
    pool = joblib.Parallel(processes, return_as="generator_unordered", batch_size=1)
    rows = pool(joblib.delayed(run_job)(job) for job in rest)
    with tqdm(rows, total=len(jobs), initial=len(jobs) - len(rest), unit="search") as bar:
        for row in bar:
            append_row(results, row)
            took = row["search_s"] + row["eval_s"]
            bar.write(f"{row['task']}, draw {row['draw']}, {row['method']} {row['search_seed']}: {took:.0f} s")


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tasks", nargs="+", choices=NAMES, default=list(DIGITS))
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=DEFAULT_METHODS)
    parser.add_argument("--budget", type=int, default=120, help="of a search, in trainings (default: 120)")
    parser.add_argument("--search-seeds", type=int, default=5, help="searches of each method (default: 5)")
    parser.add_argument("--eval-seeds", type=int, default=8, help="fresh seeds to judge on (default: 8)")
    parser.add_argument("--draws", type=int, nargs="+", default=[REPORTED], help="of data and seeds (default: 1)")
    parser.add_argument("--out", type=Path, default=Path("runs/search"), help="folder (default: runs/search)")
    parser.add_argument("--cifar", type=Path, metavar="PATH", help="CIFAR-10 as an .npz file")
    parser.add_argument("--processes", type=int, default=1, help="searches at a time (default: 1)")
    parser.add_argument("--report", action="store_true", help="only make table and figures of what is there")
    args = parser.parse_args(given)
    for name, least in (("budget", LEAST_BUDGET), ("search_seeds", 1), ("eval_seeds", 2), ("processes", 1)):
        if getattr(args, name) < least:
            parser.error(f"--{name.replace('_', '-')} must be at least {least}")
    if min(args.draws) < 0:
        parser.error("--draws must be at least 0")
    args.tasks, args.draws = list(dict.fromkeys(args.tasks)), list(dict.fromkeys(args.draws))  # each once
    args.out = args.out.absolute()
    if args.cifar is not None and not args.cifar.is_file():
        parser.error(f"--cifar: there is no file {args.cifar}")
    return args


def main(given: list[str] | None = None) -> None:
    """Search, and report."""
    warnings.filterwarnings("ignore")
    args = arguments(given)
    results = args.out / RESULTS
    try:
        if not args.report:
            for draw in args.draws:
                prepare(args.tasks, args.out / "data", args.cifar, draw)
            run(wanted_jobs(args), args.processes, results)
        # Rows of other budgets or draws in the folder do not compare.
        rows = {
            key_of(row): row
            for row in read_rows(results)
            if (row["budget"], row["eval_seeds"]) == (args.budget, args.eval_seeds) and row["draw"] in args.draws
        }
        if not rows:
            raise ValueError(f"{results} has no rows of this budget, draw and number of evaluation seeds.")
        print(write_report([*rows.values()], args.out))
    except ValueError as error:
        raise SystemExit(str(error)) from None
    except KeyboardInterrupt:
        raise SystemExit(f"Stopped; the same command resumes from {results}.") from None
    print(f"Table and figures: {args.out}")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: take the other processes along
    main()
