"""A task of 20 steps, one for each stage; by name, so that processes can unpickle it."""

from functools import partial

from law_lightning.data import DigitsDataModule, UniformNoise
from law_lightning.models import MLP, ImageClassifier
from tasks import Task


def make_module():
    return ImageClassifier(MLP((1, 8, 8), 10, hidden=(8,)), lr=0.1)


def make_task(epochs=2, batch_size=16):
    sizes = {"train_size": 160, "val_size": 100, "batch_size": batch_size}
    return Task("tiny", make_module, partial(DigitsDataModule, corruption=UniformNoise(0.4), **sizes), epochs)
