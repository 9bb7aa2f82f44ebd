"""A task of 20 steps, one for each stage; by name, so that processes can unpickle it."""

import os
import time
from functools import partial

from law_lightning.data import DigitsDataModule, UniformNoise
from law_lightning.models import MLP, ImageClassifier
from tasks import Task


def make_module():
    return ImageClassifier(MLP((1, 8, 8), 10, hidden=(8,)), lr=0.1)


def make_task(noise=0.4, epochs=2, batch_size=16, module=make_module):
    corruption = UniformNoise(noise) if noise else None
    data = partial(DigitsDataModule, train_size=160, val_size=100, batch_size=batch_size, corruption=corruption)
    return Task("tiny", module, data, epochs)


def note(path):
    path.write_text(str(os.getpid()))
    return make_module()


def fail(path):
    while not path.is_file():  # until another process has begun
        time.sleep(0.1)
    raise RuntimeError("this job fails")
