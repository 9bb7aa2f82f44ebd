"""The promise matrix: what users train with, and what the promises are measured by.

Used by test_matrix.py in one process, and by matrix_run.py in each of two.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
import torch.nn.functional as F
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.layer_sync import LayerSync
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset

from law_lightning import LAWCallback, StrategyAgent
from methods import bold_agent
from zoo import TRAINERS, AdamCosine, Base, BatchNormCNN, Kept, Mixup, Plateau, Rates, loaders, make_data, make_trainer

SAME = "same bits"


class ClassWeights(Base):
    def __init__(self):
        super().__init__()
        self.register_buffer("weight", torch.tensor([1.0, 2.0, 0.5, 1.0]))

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0]), batch[1], weight=self.weight)


class SharedPlateau(Plateau):
    """Every process sees the same validation loss, without which their rates would part."""

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]), sync_dist=True)


class CompiledNetwork(BatchNormCNN):
    def make_net(self):
        return torch.compile(super().make_net(), backend="aot_eager")


class CompiledLoss(Base):
    """The loss is called within what is compiled."""

    def __init__(self):
        super().__init__()
        self.whole = torch.compile(self.loss_of, backend="aot_eager")

    def loss_of(self, x, y):
        return F.cross_entropy(self.net(x), y)

    def training_step(self, batch, batch_idx):
        return self.whole(*batch)


class ConfigureModel(BatchNormCNN):
    def __init__(self):
        super().__init__()
        self.net = None

    def configure_model(self):
        if self.net is None:
            self.net = self.make_net()


class SeveralLoaders(AdamCosine):
    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))


class Stream(IterableDataset):
    """A share of the samples for each process, in an order of its own; its length is known."""

    def __init__(self, samples: int, seed: int, shuffle: bool, rank: int, world: int):
        self.parts = [tensor[rank::world] for tensor in make_data(samples, seed).tensors]
        self.shuffle = shuffle

    def __len__(self):
        return len(self.parts[0])

    def __iter__(self):
        order = torch.randperm(len(self)) if self.shuffle else torch.arange(len(self))
        return iter([(self.parts[0][i], self.parts[1][i]) for i in order])


def plain_loaders(rank: int, world: int):
    """92 and 70 samples: neither divides by the batch size, nor by two processes times that."""
    return loaders(16 // world)


def several_loaders(rank: int, world: int):
    train, val = plain_loaders(rank, world)
    return train, [val, DataLoader(make_data(33, seed=4), batch_size=8, shuffle=True)]


def streams(rank: int, world: int):
    return (
        DataLoader(Stream(92, 1, True, rank, world), batch_size=16 // world),
        DataLoader(Stream(70, 2, False, rank, world), batch_size=32),
    )


def own_samplers(rank: int, world: int):
    train, val = make_data(91, seed=1), make_data(71, seed=2)
    return (
        DataLoader(train, batch_size=16 // world, sampler=DistributedSampler(train, world, rank)),
        DataLoader(val, batch_size=32, sampler=DistributedSampler(val, world, rank, shuffle=True)),
    )


LOADERS = {"plain": plain_loaders, "several": several_loaders, "streams": streams, "own": own_samplers}


class Data(L.LightningDataModule):
    """Makes its loaders when the processes are there, as users do who share data out themselves."""

    def __init__(self, make: Callable[[int, int], tuple[Any, Any]]):
        super().__init__()
        self.make = make

    def train_dataloader(self):
        return self.make(self.trainer.global_rank, self.trainer.world_size)[0]

    def val_dataloader(self):
        return self.make(self.trainer.global_rank, self.trainer.world_size)[1]


class SharedNorm(nn.BatchNorm2d):
    """Shares a mean in its forward pass, as torch.nn.SyncBatchNorm does, which refuses to on the CPU."""

    def forward(self, x):
        if self.training and dist.is_initialized():
            x = x - dist.nn.functional.all_reduce(x.mean((0, 2, 3)))[:, None, None] / dist.get_world_size()
        return super().forward(x)


class ShareNorms(LayerSync):
    """Goes the way of ``sync_batchnorm=True``: layers are replaced for the fit, and replaced back."""

    def apply(self, model):
        return self._replace(model, nn.BatchNorm2d, SharedNorm)

    def revert(self, model):
        return self._replace(model, SharedNorm, nn.BatchNorm2d)

    @staticmethod
    def _replace(model, old, new):
        for part in model.modules():
            if type(part) is old:
                part.__class__ = new
        return model


@dataclass(frozen=True)
class Cell:
    """A row of the matrix."""

    what: str
    module: type[Base]
    options: dict[str, Any] = field(default_factory=dict)
    loaders: Callable[[int, int], tuple[Any, Any]] = plain_loaders


CELLS = {
    "cnn": Cell("CNN with BatchNorm and dropout, label smoothing, OneCycleLR per step", BatchNormCNN),
    "adam": Cell("MLP with dropout, AdamW, cosine per epoch, own `optimizer_step`", AdamCosine),
    "mixup": Cell("mixup", Mixup),
    "class_weights": Cell("class weights", ClassWeights),
    "kept": Cell('losses with `reduction="none"` and `"sum"`', Kept),
    "plateau": Cell("`ReduceLROnPlateau`", SharedPlateau),
    "clip_norm": Cell("clipping by norm", BatchNormCNN, TRAINERS["clip_norm"]),
    "clip_value": Cell("clipping by value", AdamCosine, TRAINERS["clip_value"]),
    "accumulate": Cell("accumulation over 3 batches", BatchNormCNN, TRAINERS["accumulate"]),
    "bf16": Cell("`bf16-mixed`", BatchNormCNN, TRAINERS["bf16"]),
    "fp16": Cell("`16-mixed`, with steps that the scaler skips", AdamCosine, TRAINERS["fp16"]),
    "compiled": Cell("network under `torch.compile`", CompiledNetwork),
    "compiled_loss": Cell("network and loss under `torch.compile`", CompiledLoss),
    "configure_model": Cell("`configure_model`", ConfigureModel),
    "several_loaders": Cell("several validation loaders, one of them shuffled", SeveralLoaders, {}, several_loaders),
    "stream": Cell("iterable dataset of known length", AdamCosine, {}, streams),
    "own_sampler": Cell(
        "own `DistributedSampler`, shuffled for validation too",
        BatchNormCNN,
        {"use_distributed_sampler": False},
        own_samplers,
    ),
    "shared_norm": Cell("`SyncBatchNorm` (a stand-in: torch's refuses the CPU)", BatchNormCNN, {"plugins": ShareNorms}),
}


class Fit:
    """One fit from a seed, and all that can be asked of it afterwards."""

    def __init__(self, cell: Cell, law: LAWCallback | None = None, callbacks=(), ckpt_path=None, **more):
        L.seed_everything(3, verbose=False)
        self.law, self.module = law, cell.module()
        self.trainer = make_trainer([each for each in (law, *callbacks) if each], **cell.options, **more)
        self.trainer.fit(self.module, datamodule=Data(cell.loaders), ckpt_path=ckpt_path, weights_only=True)
        self.random, self.state = torch.get_rng_state(), self.module.state_dict()

    @property
    def outcome(self) -> dict[str, Any]:
        """All that a resumed run must end with."""
        reference = self.law.reference
        return {
            "target": self.state,
            "reference": None if reference is None else reference.state_dict(),
            "history": self.law.history,
            "agent": self.law.agent.full_state(),
            "buffer": self.law.buffer.state_dict(),
            "random": self.random,
        }

    @property
    def belongings(self) -> dict[str, Any]:
        """What the user's objects have: names of attributes, hooks, parameters, layers and logged values."""
        hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
        metrics = {**self.trainer.callback_metrics, **self.trainer.logged_metrics}
        return {
            "attributes": [sorted(vars(part)) for part in self.module.modules()],
            "layers": [type(part).__name__ for part in self.module.modules()],
            "hooks": [sorted(getattr(part, name)) for part in self.module.modules() for name in hooks],
            "gradient hooks": [len(each._backward_hooks or ()) for each in self.module.parameters()],
            "state": list(self.state),
            "modes": [part.training for part in self.module.modules()],
            "logged": sorted(name for name in metrics if not name.startswith(("law/", "agent/"))),
            "optimizer": [sorted(vars(each)) for each in self.trainer.optimizers],
            "random": self.random.tolist(),
        }


def law(mode: str, noise: float = 2.0, phase_accuracy: str = "validation", **options: Any) -> LAWCallback:
    """Theta far from zero in a search; in apply mode too, by a stirred last layer."""
    make = bold_agent if mode == "apply" and noise else functools.partial(StrategyAgent, num_stages=5, warmup_stages=1)
    agent = make(episode_noise=noise, phase_accuracy=phase_accuracy)
    return LAWCallback(agent, mode=mode, keep="target", **options)


def unequal(a: Any, b: Any, where: str = "") -> str | None:
    """Where two nested containers differ; None if they do not."""
    if type(a) is not type(b):
        return where
    if isinstance(a, (list, tuple)):
        a, b = dict(enumerate(a)), dict(enumerate(b))
    if isinstance(a, dict):
        if list(a) != list(b):
            return f"{where} keys"
        return next(filter(None, (unequal(a[key], b[key], f"{where}/{key}") for key in a)), None)
    return None if (torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b) else where


def verdict(a: Any, b: Any) -> str:
    where = unequal(a, b)
    return SAME if where is None else f"differs at {where}"


def measure(name: str, folder: Path, mode: str, **more: Any) -> dict[str, str]:
    """What becomes of the promises in one row and mode: "same bits", or where it differs.

    Checkpoints go to the folder, the same in all processes.
    """
    cell, found, rates = CELLS[name], {}, Rates()
    plain = Fit(cell, **more)
    keep = {"save_top_k": -1, "enable_version_counter": False}
    saving = ModelCheckpoint(folder, f"{name}-{mode}-{{epoch}}", save_on_train_epoch_end=True, **keep)
    whole = Fit(cell, law(mode), [rates, saving], **more)
    if mode == "search":
        like = Fit(cell, None, [Rates(rates.noted)], **more) if name == "plateau" else plain
        found["1 reference"] = verdict(whole.law.reference.state_dict(), like.state)
    if unequal(whole.state, plain.state) is None:
        found["weights"] = "the target was not weighted"
    ones = Fit(cell, law(mode, 0.0, explore=False, learn=False), **more)
    found["2 weights of one"] = verdict(ones.state, plain.state)
    if mode == "search":
        found["2 reference"] = verdict(ones.law.reference.state_dict(), plain.state)
        found["2 rewards"] = verdict([record["reward"] for record in ones.law.history], [0.0] * 5)
    again = Fit(cell, law(mode), ckpt_path=folder / f"{name}-{mode}-epoch=1.ckpt", **more)
    if name != "plateau":  # whose step at the end of that epoch Lightning leaves out
        found["3 stop"] = verdict(again.outcome, whole.outcome)
    for what, each in (("", whole), (" resumed", again)):
        found[f"5 belongings{what}"] = verdict(each.belongings, plain.belongings)
    return found
