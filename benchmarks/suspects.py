"""Which labels are wrong: what a training's suspects are worth, beside AUM, the loss and cleanlab.

    python benchmarks/suspects.py --out runs/suspects
    python benchmarks/suspects.py --families cifar --cifar PATH --out runs/suspects
    python benchmarks/suspects.py --draws 0 1 2 --out runs/choosing

2 cores of an x86-64 server CPU shared with other work, torch 2.15.0, lightning 2.6.6; 2026-11-29; five draws.
Tables in docs/suspects.md, all rows in docs/suspects/results.jsonl. Precision on the digits and on CIFAR:

                            trainings   u20    u40    p20    p40      u20    u40    p20    p40
    fit, doubt                  2       95.4   95.4   91.3   73.5     54.8   66.0   50.9   53.4
    plain, doubt                1       93.3   92.5   82.2   61.7     55.5   65.7   48.9   51.2
    plain, AUM                  1       87.0   84.4   69.9   53.7     51.4   62.0   43.7   47.7
    plain, last loss            1       75.0   72.6   56.4   50.5     41.8   55.1   36.2   45.1
    cleanlab, best epoch        4       89.8   89.6   72.5   59.9     52.7   67.0   37.3   47.2

- A row is a task and what was trained on it. Data, networks and noise are those of ``general.py``: labels of training
  and validation redrawn uniformly with 20 or 40 % (u20, u40), or become the next class (p20, p40). The digits' MLP and
  CIFAR's CNN memorise them.
- Precision at the true number of wrong labels: of as many suspects, the share whose label is wrong. ``found`` is that
  of ``callback.suspects()``, which is not told their number.
- ``plain`` is training without weights, ``fit`` is ``LAWCallback()``, whose scores are of the target. Scores:
  ``doubt``, that of ``suspects``: how far the margin is below 0, on average; the mean ``margin`` over the run, that of
  the logits (``aum``), and of the last step ``last_margin`` and ``last_loss``; ``right``, the share of steps with a
  right prediction; ``best_loss``, by the network of the epoch that validates best.
- ``cleanlab``: five plain trainings, each on four fifths, whose networks give the probabilities of the last fifth; of
  the last epoch and of the one that validates best. Its scores are ``get_label_quality_scores``, its own number that
  of ``find_label_issues``. It must be installed (cleanlab 2.9.0 here).
- ``relabel``: of that many suspects by ``doubt``, the share whose ``predicted`` label is the true one.
- The callback's score was chosen on draws 0 to 2 of the digits and 0 of CIFAR; the draws of the table are others.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from common import QUIET, quiet, table
from general import NETWORKS, Classifier, splits
from law_lightning import LAWCallback, Samples, WeightingCallback
from rivals.methods import Row
from rivals.report import completed, t_interval
from rivals.training import BestEpoch

FAMILIES = {"digits": "mlp", "cifar": "cnn"}
NOISES = ("u20", "u40", "p20", "p40")
#: Trainings that each costs.
COSTS = {"plain": "1", "fit": "2", "cleanlab": "4"}
FOLDS = 5


class LogitMargins:
    """Sums of each sample's margin between logits: AUM. A weighting that weights nothing."""

    def __init__(self, samples: int) -> None:
        self.sums, self.seen = torch.zeros(2, samples)

    def __call__(self, samples: Samples, phase: Any) -> None:
        """Add the margins of a step."""
        own = samples.logits.gather(1, samples.target[:, None]).squeeze(1)
        others = samples.logits.scatter(1, samples.target[:, None], -torch.inf)
        self.sums.index_add_(0, samples.index, own - others.amax(dim=1))
        self.seen.index_add_(0, samples.index, torch.ones(len(samples)))


def precision(score: Tensor, wrong: Tensor) -> float:
    """Of the samples with the largest scores [N], as many as are ``wrong`` [N], the share that is."""
    return float(wrong[score.argsort(descending=True, stable=True)[: int(wrong.sum())]].float().mean())


def trained(
    family: str, draw: int, parts: Sequence[tuple[Tensor, Tensor]], callbacks: Sequence[L.Callback]
) -> tuple[L.LightningModule, BestEpoch]:
    """A network after a training, and its best epoch."""
    train, val, test = parts
    make, epochs, lr = NETWORKS[FAMILIES[family]]
    L.seed_everything(draw, verbose=False)
    module = Classifier(make(tuple(train[0].shape[1:]), 10), lr, adam=False, flip=False)
    best = BestEpoch(val, test)
    trainer = L.Trainer(**QUIET, accelerator="cpu", max_epochs=epochs, callbacks=[*callbacks, best])
    loader = DataLoader(TensorDataset(*train), 128, shuffle=True)
    trainer.fit(module, loader, DataLoader(TensorDataset(*val), 1024))
    return module, best


@torch.no_grad()
def logits_of(module: L.LightningModule, x: Tensor) -> Tensor:
    """Those of samples [N, ...], in evaluation mode."""
    out: Tensor = module.eval()(x)
    return out


def run(family: str, noise: str, method: str, draw: int, cifar: str | None) -> Row:
    """Train, and judge each score by which labels are wrong."""
    parts = splits(family, noise, draw, cifar)
    (x, given), true = parts[0], splits(family, "clean", draw, cifar)[0][1]
    wrong, begun = given != true, time.perf_counter()
    row: dict[str, Any] = {"job": [family, noise, method], "draw": draw, "wrong": int(wrong.sum())}
    scores: dict[str, Tensor] = {}
    if method == "cleanlab":
        from cleanlab.filter import find_label_issues
        from cleanlab.rank import get_label_quality_scores

        folds = torch.from_numpy(np.random.default_rng(draw).permutation(len(x)) % FOLDS)
        probabilities = {"last": torch.zeros(len(x), 10), "best": torch.zeros(len(x), 10)}
        for fold in range(FOLDS):
            out = folds == fold
            module, best = trained(family, draw, [(x[~out], given[~out]), *parts[1:]], [])
            probabilities["last"][out] = logits_of(module, x[out]).softmax(dim=1)
            module.load_state_dict(best.state)
            probabilities["best"][out] = logits_of(module, x[out]).softmax(dim=1)
        for epoch, found in probabilities.items():
            for kind in ("self_confidence", "normalized_margin"):
                quality = get_label_quality_scores(given.numpy(), found.numpy(), method=kind)
                scores[f"{epoch}_{kind}"] = -torch.as_tensor(quality)
            issues = torch.as_tensor(find_label_issues(given.numpy(), found.numpy(), n_jobs=1))
            row[f"{epoch}_issues"] = [int(issues.sum()), round(float(wrong[issues].float().mean()), 5)]
    else:
        margins = LogitMargins(len(x))
        callback = LAWCallback() if method == "fit" else WeightingCallback(margins)
        module, best = trained(family, draw, parts, [callback])
        seen = callback.dynamics.table()
        assert len(seen["index"]) == len(x)
        scores = {name: -seen[name] for name in ("margin", "last_margin", "right")}
        scores["doubt"] = seen["doubt"]
        scores["last_loss"] = seen["last_loss"]
        if method == "plain":
            scores["aum"] = -margins.sums / margins.seen
            module.load_state_dict(best.state)
            scores["best_loss"] = F.cross_entropy(logits_of(module, x), given, reduction="none")
        suspects = torch.tensor([each["index"] for each in callback.suspects()], dtype=torch.long)
        row["found"] = [len(suspects), round(float(wrong[suspects].float().mean()), 5)]
        first = scores["doubt"].argsort(descending=True, stable=True)[: row["wrong"]]
        row["relabel"] = round(float((seen["predicted"] == true)[first].float().mean()), 5)
    row["precision"] = {name: round(precision(score, wrong), 5) for name, score in scores.items()}
    return row | {"seconds": round(time.perf_counter() - begun, 1)}


def report(rows: Sequence[Row]) -> str:
    """A line a score, a column a noise: mean precision in per cent, with Student's 95 % interval over draws."""
    lines = []
    for family, group in itertools.groupby(sorted(rows, key=lambda row: row["job"][0]), lambda row: row["job"][0]):
        of = {(*row["job"][1:], row["draw"]): row for row in group}
        draws = sorted({draw for *_, draw in of})
        lines.append([family, "trainings", *NOISES])
        for method, cost in COSTS.items():
            names = [name for (_, each, _), row in of.items() if each == method for name in row["precision"]]
            for name in dict.fromkeys(names):
                values = [
                    [of[key]["precision"][name] for draw in draws if (key := (noise, method, draw)) in of]
                    for noise in NOISES
                ]
                cells = [
                    f"{100 * np.mean(each):.1f} {t_interval(each)} ({len(each)})" if len(each) > 1 else ""
                    for each in values
                ]
                lines.append([f"{method} {name}", cost, *cells])
            for name in ("found", "last_issues", "best_issues", "relabel"):
                values = [
                    [of[key][name] for draw in draws if (key := (noise, method, draw)) in of and name in of[key]]
                    for noise in NOISES
                ]
                if any(values):
                    cells = [
                        (
                            "{:.0f}, {:.1%}".format(*np.mean(each, axis=0))
                            if name != "relabel"
                            else f"{np.mean(each):.1%}"
                        )
                        if each
                        else ""
                        for each in values
                    ]
                    lines.append([f"{method} {name}", cost, *cells])
    return table(lines)


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--families", nargs="+", choices=list(FAMILIES), default=["digits"])
    parser.add_argument("--noises", nargs="+", choices=NOISES, default=list(NOISES))
    parser.add_argument("--methods", nargs="+", choices=list(COSTS), default=list(COSTS))
    parser.add_argument("--draws", nargs="+", type=int, default=list(range(100, 105)))
    parser.add_argument("--out", type=Path, default=Path("runs/suspects"))
    parser.add_argument("--cifar", help="CIFAR-10 as an .npz file with train_x and train_y")
    args = parser.parse_args()
    quiet()
    torch.set_num_threads(1)
    jobs = [
        (family, noise, method, draw)
        for family in args.families
        for draw in args.draws
        for method in args.methods
        for noise in args.noises
    ]
    print(report(completed(jobs, args.out / "results.jsonl", partial(run, cifar=args.cifar))))


if __name__ == "__main__":
    main()
