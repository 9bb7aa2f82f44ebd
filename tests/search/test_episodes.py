"""Single episodes: seeds, devices, and a Trainer that logs at less cost."""

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanMetric

from law_lightning._compat import log_at_less_cost
from law_lightning.search.episodes import QUIET, check_one_device, episode_seed, on_one_device
from search_parts import TRAINER, new_search


class Logging(L.LightningModule):
    """Logs in every way, and remembers what it could read."""

    def __init__(self):
        super().__init__()
        self.layer, self.metric, self.seen = nn.Linear(3, 2), MeanMetric(), []

    def training_step(self, batch, batch_idx):
        loss = F.cross_entropy(self.layer(batch[0]), batch[1])
        self.metric(loss)
        self.log("both", loss, on_step=True, on_epoch=True)
        self.log("number", float(batch_idx), on_step=False, on_epoch=True, reduce_fx="max")
        self.log("sum", loss.double(), on_step=False, on_epoch=True, reduce_fx="sum")
        self.log("metric", self.metric, on_step=True, on_epoch=True)
        self.seen.append(dict(self.trainer.callback_metrics))
        return loss

    def on_train_epoch_end(self):
        self.log("epoch", self.current_epoch)
        self.seen.append(dict(self.trainer.callback_metrics))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def logged(at_less_cost):
    L.seed_everything(0, verbose=False)
    module, trainer = Logging(), L.Trainer(**QUIET, max_epochs=3, accelerator="cpu")
    if at_less_cost:
        log_at_less_cost(trainer)
    data = TensorDataset(torch.randn(10, 3), torch.randint(2, (10,)))
    trainer.fit(module, DataLoader(data, batch_size=4))
    return trainer, module


def test_what_is_logged_at_less_cost_is_what_any_trainer_logs():
    (plain_trainer, plain), (trainer, module) = logged(False), logged(True)
    assert dict(trainer.callback_metrics) == dict(plain_trainer.callback_metrics)
    assert dict(trainer.logged_metrics) == dict(plain_trainer.logged_metrics)
    assert {"both_step", "both_epoch", "number", "sum", "metric_epoch", "epoch"} <= set(trainer.callback_metrics)
    assert module.seen == plain.seen
    number = trainer.fit_loop.epoch_loop._results["training_step.both"]
    assert number.to(torch.device("meta")).value.device.type == "meta"
    assert number.cumulated_batch_size.device.type == "meta"


def test_seeds_for_learning_and_evaluation_never_meet():
    seeds = {episode_seed(0, purpose, i) for purpose in ("learn", "evaluate", "check") for i in range(1000)}
    assert len(seeds) == 3000


def test_episodes_of_workers_take_turns_on_gpus(monkeypatch):
    check_one_device({"accelerator": "gpu", "devices": 1})
    for options in ({"devices": 2}, {"strategy": "ddp"}, {"num_nodes": 2}, {"devices": [0, 1]}):
        with pytest.raises(MisconfigurationException, match="each episode runs on one device"):
            new_search(workers=2, trainer_kwargs=TRAINER | options)
    assert on_one_device({"accelerator": "cpu"}, 1)["devices"] == 1
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [on_one_device({"devices": 1}, rank)["devices"] for rank in range(3)] == [[0], [1], [0]]
    assert on_one_device({"accelerator": "cpu", "devices": 1}, 1)["devices"] == 1
    assert on_one_device({"devices": [1]}, 0)["devices"] == [1]
