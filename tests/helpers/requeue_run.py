"""One process of a job of SLURM's with two: trains, and signals itself if it is to. Writes what came of it."""

import os
import signal
import sys
from pathlib import Path

import lightning as L
import torch

import zoo
from methods import METHODS
from zoo import AdamCosine, Turned, fit


class Signal(L.Callback):
    def __init__(self, batch):
        self.left = batch

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGUSR1)


def main(folder, name, kind, batch):
    torch.set_num_threads(1)
    callback = METHODS["law_search"]()
    options = {"devices": 2, "strategy": "ddp", "default_root_dir": folder}
    if kind == "augmented":
        validation = zoo.loaders()[1]
        zoo.loaders = lambda: (torch.utils.data.DataLoader(Turned(), batch_size=8, shuffle=True), validation)
        options["val_check_interval"] = 2
    module = fit(AdamCosine, [callback, Signal(batch)], **options)
    outcome = {"module": module.state_dict(), "reference": callback.reference.state_dict(), "history": callback.history}
    torch.save(outcome, Path(folder) / f"{name}_{os.environ['SLURM_PROCID']}.pt")


if __name__ == "__main__":
    main(*sys.argv[1:4], int(sys.argv[4]))
