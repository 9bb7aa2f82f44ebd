import math

import lightning as L
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from law_lightning import WeightingCallback
from law_lightning.callbacks.labels import QUANTILES
from law_lightning.data import DigitsDataModule, DiscardClasses, UniformNoise
from law_lightning.models import MLP, ImageClassifier
from zoo import DropoutMLP, fit, make_trainer


def doubt_great_losses(samples, phase):
    """A weighting of each sample by itself, so that a batch's composition does not matter."""
    return torch.where(samples.loss > 2.0, 0.25, 1.5)


def train(callback, corruption):
    L.seed_everything(0)
    data = DigitsDataModule(train_size=150, val_size=100, batch_size=32, corruption=corruption)
    module = ImageClassifier(MLP((1, 8, 8), 10, hidden=(32,), dropout=0.3), lr=0.1)
    make_trainer([callback], max_epochs=4).fit(module, datamodule=data)
    return module, data, callback.history


def test_the_means_against_a_loop_over_the_samples():
    callback = WeightingCallback(doubt_great_losses, num_stages=4, warmup_stages=1, analyse_labels=True)
    module, data, history = train(callback, UniformNoise(0.5, seed=1))
    assert (history[0]["weight_clean"], history[0]["weight_wrong"]) == (1.0, 1.0)  # the warm-up
    record, dataset = data.corruption_record, data.train_dataloader().dataset
    wrong = set(record.indices.tolist())
    given = {True: [], False: []}
    module.eval()
    for i in range(len(dataset)):
        x, y = dataset[i]
        with torch.no_grad():
            loss = F.cross_entropy(module(x[None]), y[None])
        given[i in wrong].append(0.25 if loss > 2.0 else 1.5)
    for key, isin in (("weight_clean", False), ("weight_wrong", True)):
        assert math.isclose(history[-1][key], sum(given[isin]) / len(given[isin]), rel_tol=1e-6)
        assert history[-1][f"{key}_quantiles"] == np.quantile(given[isin], QUANTILES).tolist()
    assert history[-1]["weight_wrong"] < history[-1]["weight_clean"]
    assert callback.scalars(history[-1])["law/weight/wrong"] == history[-1]["weight_wrong"]


@pytest.mark.parametrize("corruption", [DiscardClasses([0], 0.5), UniformNoise(0.0)])
def test_without_a_wrong_label_it_is_refused(corruption):
    callback = WeightingCallback(doubt_great_losses, analyse_labels=True)
    with pytest.raises(MisconfigurationException, match=r"needs to know which training.*analysis_dataloader"):
        train(callback, corruption)
    with pytest.raises(MisconfigurationException, match=r"needs to know which training.*analysis_dataloader"):
        fit(DropoutMLP, [callback])
