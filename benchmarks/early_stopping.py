r"""``LAWCallback()`` in trainings that EarlyStopping ends, beside plain ones with the same EarlyStopping.

    python benchmarks/early_stopping.py
    python benchmarks/early_stopping.py --monitor val/loss --methods plain fit
    python benchmarks/early_stopping.py --families cifar --cifar PATH --noises clean u40 --optimizers adam \
        --patiences 10 --methods plain fit

2 cores of an x86-64 server CPU shared with other work, torch 2.15.0, lightning 2.6.6; 2026-11-29. Rows in
docs/general/early_stopping.jsonl, table in docs/general.md. Gains at the last epoch / the one that validates best, SGD,
accuracy:

                     patience 3: whole    fit              patience 10: whole    fit
    digits, 40 %         +0.6 / +0.0      +3.4 / +3.5         +5.2 / +1.3        +4.8 / +2.8
    digits, pair 30 %    +0.0 / +0.0      +11.7 / +11.6       +13.5 / +11.8      +12.3 / +11.3
    MNIST, 40 %          +0.0 / +0.0      +4.7 / +3.4         +3.5 / +0.0        +10.5 / +4.3
    MNIST, pair 30 %     +0.0 / +0.0      +12.3 / +7.6        +3.8 / +2.4        +12.4 / +6.9

- Data, networks and noise are those of ``general.py``; Adam at 1e-3, or SGD at a constant rate of 0.03, up to 200
  epochs. EarlyStopping follows the accuracy (or the loss, with ``--monitor``) on validation data that have the noise of
  the training data.
- ``fit`` is ``LAWCallback()``, whose stages then end within six times the patience; ``whole`` cuts them from all 200
  epochs, as ``total_steps`` of the user's own would. Six was chosen on two other draws (20 and 21) of the digits and
  MNIST, among 4, 6 and 10.
- ``last`` is the network as the fit left it, ``best`` that of the epoch that validates best.
"""

from __future__ import annotations

import argparse
import itertools
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import EarlyStopping
from torch.utils.data import DataLoader, TensorDataset

from common import QUIET, quiet
from general import NETWORKS, Classifier, report, splits
from law_lightning import LAWCallback
from rivals.methods import Row
from rivals.report import completed
from rivals.training import BestEpoch, accuracy

FAMILIES = {"digits": "mlp", "mnist": "mlp", "cifar": "cnn"}
NOISES = ("clean", "u20", "u40", "p30")
METHODS = ("plain", "fit", "whole")
TASK = ("data", "noise", "optimizer", "monitor", "patience")
MAX_EPOCHS, BATCH = 200, 128


class Constant(Classifier):
    """The classifier at a constant learning rate: that of a long training would hardly fall before it is stopped."""

    def configure_optimizers(self) -> Any:
        """Adam at 1e-3, or SGD."""
        return super().configure_optimizers() if self.adam else torch.optim.SGD(self.parameters(), 0.03, momentum=0.9)


def run(
    family: str, noise: str, optimizer: str, monitor: str, patience: int, method: str, draw: int, cifar: str | None
) -> Row:
    """Train until EarlyStopping ends it: test accuracies of the last and the best epoch, and the number of epochs."""
    train, val, test = splits(family, noise, draw, cifar)
    make, _, _ = NETWORKS[FAMILIES[family]]
    L.seed_everything(draw, verbose=False)
    module = Constant(make(tuple(train[0].shape[1:]), 10), 0.1, optimizer == "adam", flip=False)
    best = BestEpoch(val, test)
    stopping = EarlyStopping(monitor, patience=patience, mode="max" if monitor == "val/acc" else "min")
    all_steps = MAX_EPOCHS * -(-len(train[0]) // BATCH)
    own = {"plain": [], "fit": [LAWCallback()], "whole": [LAWCallback(total_steps=all_steps)]}[method]
    trainer = L.Trainer(**QUIET, accelerator="cpu", max_epochs=MAX_EPOCHS, callbacks=[*own, best, stopping])
    trainer.fit(module, DataLoader(TensorDataset(*train), BATCH, shuffle=True), DataLoader(TensorDataset(*val), 1024))
    job = [family, noise, optimizer, monitor, patience, method]
    row = {"job": job, "draw": draw, "last": accuracy(module, *test), "best": best.test}
    return row | {"epochs": trainer.current_epoch}


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--families", nargs="+", choices=list(FAMILIES), default=["digits", "mnist"])
    parser.add_argument("--noises", nargs="+", choices=NOISES, default=list(NOISES))
    parser.add_argument("--optimizers", nargs="+", choices=["adam", "sgd"], default=["adam", "sgd"])
    parser.add_argument("--monitor", nargs="+", choices=["val/acc", "val/loss"], default=["val/acc"])
    parser.add_argument("--patiences", nargs="+", type=int, default=[3, 10])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--draws", nargs="+", type=int, default=list(range(5)))
    parser.add_argument("--out", type=Path, default=Path("runs/early_stopping"))
    parser.add_argument("--cifar", help="CIFAR-10 as an .npz file with train_x and train_y")
    args = parser.parse_args()
    quiet()
    torch.set_num_threads(1)
    named = (args.families, args.noises, args.optimizers, args.monitor, args.patiences, args.methods, args.draws)
    rows = completed(itertools.product(*named), args.out / "results.jsonl", partial(run, cifar=args.cifar))
    print(report(rows, METHODS, TASK))


if __name__ == "__main__":
    main()
