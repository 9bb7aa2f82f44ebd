"""Tests of law_lightning.search.lean: what an episode's Trainer is spared shows nowhere."""

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanMetric

from law_lightning.search.lean import NoProfiler, lean


class Logging(L.LightningModule):
    """Logs in every way, and remembers what it could read."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.metric = MeanMetric()
        self.seen: list[dict[str, Tensor]] = []

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = F.cross_entropy(self.layer(batch[0]), batch[1])
        self.metric(loss)
        self.log("both", loss, on_step=True, on_epoch=True)
        self.log("number", float(batch_idx), on_step=False, on_epoch=True, reduce_fx="max")
        self.log("sum", loss.double(), on_step=False, on_epoch=True, reduce_fx="sum")
        self.log("metric", self.metric, on_step=True, on_epoch=True)
        self.seen.append(dict(self.trainer.callback_metrics))
        return loss

    def on_train_epoch_end(self) -> None:
        self.log("epoch", self.current_epoch)
        self.seen.append(dict(self.trainer.callback_metrics))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(spare: bool) -> tuple[L.Trainer, Logging]:
    L.seed_everything(0, verbose=False)
    module = Logging()
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    trainer = L.Trainer(max_epochs=3, enable_model_summary=False, profiler=NoProfiler() if spare else None, **options)
    data = TensorDataset(torch.randn(10, 3), torch.randint(2, (10,)))
    (lean(trainer) if spare else trainer).fit(module, DataLoader(data, batch_size=4))
    return trainer, module


def test_a_lean_trainer_logs_what_any_trainer_logs() -> None:
    (plain_trainer, plain), (trainer, module) = fit(spare=False), fit(spare=True)
    assert dict(trainer.callback_metrics) == dict(plain_trainer.callback_metrics)
    assert dict(trainer.logged_metrics) == dict(plain_trainer.logged_metrics)
    assert {"both_step", "both_epoch", "number", "sum", "metric_epoch", "epoch"} <= set(trainer.callback_metrics)
    assert module.seen == plain.seen


def test_a_logged_number_follows_its_device() -> None:
    trainer, _ = fit(spare=True)
    results = trainer.fit_loop.epoch_loop._results
    number = results["training_step.both"]
    assert number.to(torch.device("meta")).value.device.type == "meta"
    number.to(torch.device("meta"))
    assert number.value.device.type == "meta"
