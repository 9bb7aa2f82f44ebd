"""Modules as users write them (none of the package's own), data and Trainers for the tests of the promises."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins import MixedPrecision
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

CLASSES = 4


def make_data(samples: int = 96, seed: int = 0) -> TensorDataset:
    """Blobs with a fifth of the labels wrong, as 1 x 6 x 6 images."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(CLASSES, 36, generator=torch.Generator().manual_seed(99))
    target = torch.randint(CLASSES, (samples,), generator=generator)
    x = centres[target] + 1.5 * torch.randn(samples, 36, generator=generator)
    noisy = torch.rand(samples, generator=generator) < 0.2
    target = torch.where(noisy, torch.randint(CLASSES, (samples,), generator=generator), target)
    return TensorDataset(x.view(-1, 1, 6, 6), target)


def loaders(batch_size: int = 16) -> tuple[DataLoader, DataLoader]:
    # 92 samples: the last batch is smaller, and accumulation by 3 does not come out even.
    return (
        DataLoader(make_data(92, seed=1), batch_size=batch_size, shuffle=True),
        DataLoader(make_data(70, seed=2), batch_size=32),
    )


class Base(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = self.make_net()

    def make_net(self):
        return nn.Sequential(nn.Flatten(), nn.Linear(36, 32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, CLASSES))

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = nn.CrossEntropyLoss()(self(x), y)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        loss = F.cross_entropy(self(x), y)
        self.log("val_loss", loss)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9, nesterov=True)


class DropoutMLP(Base):
    pass


class BatchNormCNN(Base):
    """BatchNorm, dropout, label smoothing and a one-cycle rate that moves the momentum too, stepped per batch."""

    def make_net(self):
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout2d(0.2), nn.Flatten(),
            nn.Linear(8 * 36, CLASSES),
        )  # fmt: skip

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0]), batch[1], label_smoothing=0.1)

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)
        steps = self.trainer.estimated_stepping_batches
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


class FrozenNorm(BatchNormCNN):
    """A BatchNorm that the user put into evaluation mode for good, as when fine-tuning."""

    def __init__(self):
        super().__init__()
        self.net[1].running_mean.fill_(0.1)
        self.net[1].eval()


class AdamCosine(Base):
    """Adam with a cosine per epoch, and a hand-made warm-up in the overridden optimizer step."""

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=3e-3, amsgrad=True)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=4)]

    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure):
        if self.trainer.global_step < 5:
            for group in optimizer.param_groups:
                group["lr"] = 3e-3 * (self.trainer.global_step + 1) / 5
        optimizer.step(closure=optimizer_closure)


class Plateau(Base):
    """A rate that follows the target's validation loss, and class weights."""

    def training_step(self, batch, batch_idx):
        weight = torch.tensor([1.0, 2.0, 0.5, 1.0])
        return F.cross_entropy(self(batch[0]), batch[1], weight=weight)

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "val_loss"}}


class Mixup(Base):
    """Two losses on one batch, with NumPy's and torch's randomness, and a batch changed in place."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        lam = float(np.random.beta(1.0, 1.0))  # noqa: NPY002 - as users write it
        other = torch.randperm(len(x))
        x.mul_(lam).add_(x[other] * (1 - lam) / max(lam, 1e-3))
        logits = self(x)
        return lam * F.cross_entropy(logits, y) + (1 - lam) * F.cross_entropy(logits, y[other])


class ExplicitDict(Base):
    """The second way: per-sample losses in the dict, and a further term of the loss."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        logits = self(x)
        losses = F.cross_entropy(logits, y, reduction="none")
        penalty = 1e-3 * sum(p.square().sum() for p in self.parameters())
        return {"loss": losses.mean() + penalty, "losses": losses, "logits": logits, "target": y}


class Kept(Base):
    """Losses that keep their values: one not reduced, for a focal factor, class weights and a mask; one added up.

    The second is of another head and on another target: it shares none of the weights.
    """

    def __init__(self):
        super().__init__()
        self.parity = nn.Linear(36, CLASSES)

    def training_step(self, batch, batch_idx):
        x, y = batch
        losses = F.cross_entropy(self(x), y, reduction="none")
        self.log("train_loss", losses.mean())
        weight = torch.tensor([1.0, 2.0, 0.5, 1.0])[y] * (x.mean((1, 2, 3)) > -0.3)
        focal = (weight * (1 - (-losses).exp()) ** 2 * losses).sum() / weight.sum()
        return focal + F.nll_loss(self.parity(x.flatten(1)).log_softmax(1), y % 2, reduction="sum") / len(x)


class Hooked(Base):
    """Hooks that matter to the training: an average of the weights, a noise level per epoch, gradient scaling."""

    def __init__(self):
        super().__init__()
        self.register_buffer("average", torch.zeros(CLASSES))
        self.noise = 0.0
        self.seen = []

    def on_train_epoch_start(self):
        self.noise = 0.1 / (1 + self.current_epoch) * float(torch.rand(()))

    def training_step(self, batch, batch_idx):
        x, y = batch
        self.last_logits = self(x + self.noise * torch.randn_like(x))  # a graph kept on self
        self.seen.append(float(x.mean()))
        return F.nll_loss(self.last_logits.log_softmax(1), y)

    def on_before_optimizer_step(self, optimizer):
        for parameter in self.parameters():
            parameter.grad.mul_(0.9)

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.average.lerp_(self.net[-1].bias.detach(), 0.1)

    def on_train_epoch_end(self):
        with torch.no_grad():
            self.net[-1].bias.copy_(self.average + 0.01 * torch.randn(CLASSES))


class Auxiliary(Base):
    """Main and auxiliary head, the loss in a sub-module's forward, accuracy from ``forward`` alone."""

    def __init__(self):
        super().__init__()
        self.auxiliary = nn.Linear(36, CLASSES)
        self.criterion = nn.CrossEntropyLoss(ignore_index=3)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return self.criterion(self(x), y.view(-1)) + 0.3 * self.criterion(self.auxiliary(x.flatten(1)), y.view(-1))

    validation_step = L.LightningModule.validation_step


class OwnFunction(Base):
    """A function on the instance that refers to self, and lists of tensors with their graphs."""

    def __init__(self):
        super().__init__()
        self.score = lambda x: self.net(x)
        self.losses = []

    def forward(self, x):
        return self.score(x)

    def training_step(self, batch, batch_idx):
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.losses.append(loss)
        return {"loss": loss, "predictions": loss.detach() * 2}

    def on_before_backward(self, loss):
        self.before = float(loss)

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.net[1].bias.data.add_(1e-3 * outputs["predictions"] + 1e-4 * self.before)

    def on_train_epoch_end(self):
        self.net[1].bias.data.add_(1e-3 * torch.stack(self.losses).mean())
        self.losses.clear()


class LineSearch(Base):
    """An optimizer that calls the step several times, and holds more than its groups."""

    def make_net(self):
        return nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.Tanh(), nn.Dropout(0.1), nn.Linear(8, CLASSES))

    def configure_optimizers(self):
        return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=3)


class TwoHeads(Base):
    """Heads with different numbers of classes on different targets; the losses are scaled."""

    def __init__(self):
        super().__init__()
        self.coarse = nn.Linear(36, 2)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return 0.5 * F.cross_entropy(self(x), y) + 0.1 * F.cross_entropy(self.coarse(x.flatten(1)), y % 2)


MODULES = [DropoutMLP, BatchNormCNN, FrozenNorm, AdamCosine, Plateau, Mixup]
MODULES += [ExplicitDict, Kept, Hooked, Auxiliary, OwnFunction, LineSearch, TwoHeads]


class Rates(L.Callback):
    """Notes the learning rate of every step, or sets it to those noted before."""

    def __init__(self, noted=()):
        self.noted, self._given = [], list(noted)

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if self._given:
            optimizer.param_groups[0]["lr"] = self._given.pop(0)
        self.noted.append(optimizer.param_groups[0]["lr"])


def half_precision():
    """16-mixed with its gradient scaler, which the Trainer by itself offers on a GPU only."""
    # Starts so high that the first steps overflow and are skipped, for the target and for the reference.
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**24, growth_interval=5))


TRAINERS = {
    "default": {},
    "clip_norm": {"gradient_clip_val": 0.2},
    "clip_value": {"gradient_clip_val": 0.05, "gradient_clip_algorithm": "value"},
    "accumulate": {"accumulate_grad_batches": 3},
    "bf16": {"precision": "bf16-mixed"},
    "fp16": {"plugins": half_precision},
    "max_steps": {"max_epochs": -1, "max_steps": 17},
}


def make_trainer(callbacks=(), **kwargs) -> L.Trainer:
    options = {
        "max_epochs": 4,
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": any(isinstance(callback, Checkpoint) for callback in callbacks),
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    options |= kwargs
    if callable(options.get("plugins")):  # a scaler holds state: a fresh one for each Trainer
        options["plugins"] = options["plugins"]()
    return L.Trainer(**options, callbacks=list(callbacks))


def fit(module_class, callbacks=(), seed=3, ckpt_path=None, data=loaders, **kwargs):
    """Train from a seed; the module afterwards."""
    L.seed_everything(seed, verbose=False)
    module = module_class()
    make_trainer(callbacks, **kwargs).fit(module, *data(), ckpt_path=ckpt_path)
    return module


@functools.cache
def plain(module_class, trainer="default"):
    """Parameters and buffers of plain training, trained once for all tests."""
    return fit(module_class, **TRAINERS[trainer]).state_dict()


def assert_identical(a: dict, b: dict) -> None:
    assert list(a) == list(b)
    for name in a:
        assert torch.equal(a[name], b[name]), f"{name} differs by {(a[name] - b[name]).abs().max()}"


def differ(a: dict, b: dict) -> bool:
    return any(not torch.equal(a[name], b[name]) for name in a)


def run_script(name: str, *args, timeout: int = 600) -> None:
    """Run a script of this folder as a user would, also on several processes."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PL_", "PYTEST", "COV_", "LOCAL_RANK"))}
    command = [sys.executable, str(Path(__file__).with_name(name)), *map(str, args)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
