"""Digits whose classes shrink from 1 to 1/50 in training but not in use: ``EPOCHS=60 python rare_classes.py``."""

import os
from statistics import fmean

import lightning as L

from law_lightning import ClassBalancedWeighting, LAWCallback, WeightingCallback
from law_lightning.data import DigitsDataModule, LongTail
from law_lightning.models import MLP, ImageClassifier

OPTIONS = {"max_epochs": int(os.environ.get("EPOCHS", "60")), "accelerator": "cpu", "logger": False,
           "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}  # fmt: skip
CALLBACKS = {
    "plain Trainer": list,
    "LAWCallback()": lambda: [LAWCallback()],  # classes count as often as in the validation data
    "Class-Balanced": lambda: [WeightingCallback(ClassBalancedWeighting())],
}


def train(seed, callbacks):
    """Test accuracy, on data that have all classes equally often."""
    L.seed_everything(seed, verbose=False)
    data = DigitsDataModule(train_size=800, val_size=400, corruption=LongTail(imbalance=50))
    module = ImageClassifier(MLP(in_shape=(1, 8, 8), num_classes=10))
    trainer = L.Trainer(**OPTIONS, callbacks=callbacks)
    trainer.fit(module, data)
    return trainer.test(module, data, verbose=False)[0]["test/acc"]


if __name__ == "__main__":
    for name, callbacks in CALLBACKS.items():
        accuracy = fmean(train(seed, callbacks()) for seed in range(int(os.environ.get("SEEDS", "3"))))
        print(f"{name:15} mean test accuracy {accuracy:.3f}")
