"""A module of your own on noisy digits, trained plainly and with LAW: ``EPOCHS=40 python own_module.py``."""

# ruff: noqa: D102 - a short example

import os

import lightning as L
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset

from law_lightning import LAWCallback


class Digits(L.LightningModule):
    """Nothing in here knows of LAW."""

    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
        self.criterion = nn.CrossEntropyLoss()

    def training_step(self, batch, batch_idx):
        return self.criterion(self.network(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.criterion(self.network(batch[0]), batch[1]))

    def test_step(self, batch, batch_idx):
        self.log("accuracy", (self.network(batch[0]).argmax(dim=1) == batch[1]).float().mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def make_data():
    """500 training images, each label redrawn with probability 0.4; clean validation (500) and test (797) images."""
    x, y = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
    random = torch.Generator().manual_seed(0)
    train, val, test = torch.randperm(len(y), generator=random).split([500, 500, 797])
    redrawn = train[torch.rand(500, generator=random) < 0.4]
    y[redrawn] = torch.randint(10, (len(redrawn),), generator=random)
    sets = [TensorDataset(x[part].float() / 8 - 1, y[part]) for part in (train, val, test)]
    return L.LightningDataModule.from_datasets(*sets, batch_size=64)


OPTIONS = {"max_epochs": int(os.environ.get("EPOCHS", "40")), "accelerator": "cpu", "logger": False,
           "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}  # fmt: skip


def test_accuracy(seed, callbacks):
    """Train from a seed and test."""
    L.seed_everything(seed, verbose=False)
    trainer, module, data = L.Trainer(**OPTIONS, callbacks=callbacks), Digits(), make_data()
    trainer.fit(module, data)
    return trainer.test(module, data, verbose=False)[0]["accuracy"]


if __name__ == "__main__":
    law = LAWCallback()
    print(f"plain Trainer:    test accuracy {test_accuracy(0, []):.3f}")
    print(f"with LAWCallback: test accuracy {test_accuracy(0, [law]):.3f}")
    last = law.history[-1]
    print(f"on validation:    target {last['acc_target']:.3f}, reference {last['acc_reference']:.3f}")
