"""Tabular data of which 30 % have the label of the next class: ``EPOCHS=40 python tabular.py``."""

# ruff: noqa: D102 - a short example

import os
import tempfile

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from sklearn.datasets import make_classification
from torch import nn
from torch.utils.data import TensorDataset

from law_lightning import LAWCallback

CLASSES = 5


class Table(L.LightningModule):
    """Nothing in here knows of LAW."""

    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(
            nn.Linear(20, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, CLASSES)
        )

    def forward(self, x):
        return self.network(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return nn.functional.cross_entropy(self(x), y)

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_accuracy", (self(x).argmax(dim=1) == y).float().mean())

    def test_step(self, batch, batch_idx):
        x, y = batch
        self.log("accuracy", (self(x).argmax(dim=1) == y).float().mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def make_data():
    """1,000 rows for training and 1,000 for validation with noisy labels, 1,000 for the test with right ones."""
    x, y = make_classification(3000, 20, n_informative=10, n_classes=CLASSES, class_sep=2.0, random_state=0)
    y[:2000] = np.where(np.random.default_rng(0).random(2000) < 0.3, (y[:2000] + 1) % CLASSES, y[:2000])
    x = (x - x[:1000].mean(axis=0)) / x[:1000].std(axis=0)
    parts = zip(torch.from_numpy(x).float().split(1000), torch.from_numpy(y).split(1000), strict=True)
    return L.LightningDataModule.from_datasets(*[TensorDataset(*part) for part in parts], batch_size=64)


OPTIONS = {"max_epochs": int(os.environ.get("EPOCHS", "40")), "accelerator": "cpu", "logger": False,
           "enable_progress_bar": False, "enable_model_summary": False}  # fmt: skip


def train(make_module, make_data, *callbacks):
    """Test accuracies on right labels, of the last epoch and of the one that validates best, on noisy labels."""
    L.seed_everything(0, verbose=False)
    with tempfile.TemporaryDirectory() as folder:
        best = ModelCheckpoint(folder, monitor="val_accuracy", mode="max")
        trainer, module, data = L.Trainer(**OPTIONS, callbacks=[*callbacks, best]), make_module(), make_data()
        trainer.fit(module, data)
        return [trainer.test(module, data, ckpt_path=each, verbose=False)[0]["accuracy"] for each in (None, "best")]


def compare(make_module, make_data):
    """Train plainly and with LAW, and print the accuracies."""
    for name, callbacks in {"plain Trainer": [], "LAWCallback()": [LAWCallback()]}.items():
        last, best = train(make_module, make_data, *callbacks)
        print(f"{name}: test accuracy {last:.3f}, of the epoch that validates best {best:.3f}")


if __name__ == "__main__":
    compare(Table, make_data)
