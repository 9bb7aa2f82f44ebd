"""The validation accuracy against an independent count."""

import copy

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader, DistributedSampler, RandomSampler, TensorDataset

from law_lightning.second_network.evaluation import Evaluator, _counted_once
from zoo import Base, loaders, make_data, make_trainer

DATA = make_data(70, seed=2)


class Ask(L.Callback):
    """Evaluates the module when training starts, and keeps the answer and what it might have touched."""

    def __init__(self, look=lambda trainer, module: None):
        self.look = look

    def on_train_start(self, trainer, pl_module):
        self.before = self.look(trainer, pl_module)
        self.accuracy = Evaluator(trainer)([pl_module])[0]
        self.after = self.look(trainer, pl_module)


def evaluate(module, val=None, ask=None, **kwargs):
    ask = ask or Ask()
    options = {"max_steps": 1, "num_sanity_val_steps": 0, "check_val_every_n_epoch": 5} | kwargs
    val = DataLoader(DATA, batch_size=32) if val is None else val
    make_trainer([ask], **options).fit(module, loaders()[0], val)
    return ask.accuracy


@torch.no_grad()
def count(net, x, y, keep=None):
    right = (net.eval()(x).argmax(1) == y).float()
    net.train()
    return float(right.mean() if keep is None else right[keep].mean())


class Dict(Base):
    def validation_step(self, batch, batch_idx):
        x, y = batch
        logits = self(x)
        losses = F.cross_entropy(logits, y, reduction="none", ignore_index=3)
        target = torch.where(y == 3, -100, y)
        return {"loss": losses.mean(), "losses": losses, "logits": logits, "target": target}


class Ignoring(Base):
    def validation_step(self, batch):  # without batch_idx, as Lightning allows
        return F.cross_entropy(self(batch[0]), batch[1], ignore_index=3)


class Forward(Base):
    """Its validation_step reveals nothing."""

    def validation_step(self, batch, batch_idx):
        self.log("something", 1.0)


X, Y = DATA.tensors


@pytest.mark.parametrize(
    ("kind", "target", "keep"),
    [
        (Base, Y, None), (Dict, Y, Y != 3), (Ignoring, Y, Y != 3), (Forward, Y, None),
        (Forward, Y.where(Y != 3, -100), Y != 3),
    ],
    ids=["validation_step", "dict", "ignore_index", "forward", "forward without some labels"],
)  # fmt: skip
def test_the_accuracy_over_samples_with_a_label(kind, target, keep):
    module = kind()
    net = copy.deepcopy(module.net)  # as it is before the training step
    val = DataLoader(TensorDataset(X, target), batch_size=32)
    assert evaluate(module, val) == pytest.approx(count(net, X, Y, keep))


@pytest.mark.parametrize(
    ("kind", "target", "error", "message"),
    [
        (Forward, Y + 3, ValueError, "Labels out of range"),
        (Ignoring, torch.full_like(Y, 3), MisconfigurationException, "hold no samples with a label"),
    ],
)
def test_labels_that_cannot_be_used_are_named(kind, target, error, message):
    with pytest.raises(error, match=message):
        evaluate(kind(), DataLoader(TensorDataset(X, target), batch_size=32))


@pytest.mark.parametrize(("limit", "samples"), [(1, 32), (2, 64), (0.5, 32), (1.0, 70)])
def test_limit_val_batches(limit, samples):
    module = Base()
    net = copy.deepcopy(module.net)
    assert evaluate(module, limit_val_batches=limit) == pytest.approx(count(net, X[:samples], Y[:samples]))


def test_nothing_of_the_users_is_touched():
    generator, sampling = torch.Generator().manual_seed(1), torch.Generator().manual_seed(2)
    val = DataLoader(DATA, 32, sampler=RandomSampler(DATA, generator=sampling), generator=generator)

    def look(trainer, module):
        states = [torch.get_rng_state(), generator.get_state(), sampling.get_state()]
        return [*(state.tolist() for state in states), module.training, trainer.state.stage, set(vars(module))]

    evaluate(Base(), val, ask := Ask(look))
    assert ask.before == ask.after


@pytest.mark.parametrize("processes", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [7, 8, 9])
def test_every_sample_is_counted_once_over_the_processes(processes, size):
    data = TensorDataset(torch.arange(size))
    counted = []
    for rank in range(processes):
        sampler = DistributedSampler(data, processes, rank, shuffle=False)
        loader = DataLoader(data, batch_size=2, sampler=sampler)
        position = 0
        for (batch,) in loader:
            once, samples = _counted_once(loader, position, len(batch))
            assert samples == len(batch)
            counted += batch[once].tolist()
            position += len(batch)
    assert sorted(counted) == list(range(size))


class InBlocks(DistributedSampler):
    """Shares whole blocks out, so that the last process's first rows are no padding."""

    def __iter__(self):
        each = len(self)
        return iter(range(self.rank * each, min((self.rank + 1) * each, len(self.dataset))))


def test_all_samples_of_an_order_of_ones_own_are_counted():
    data = TensorDataset(torch.arange(9))
    loader = DataLoader(data, batch_size=5, sampler=InBlocks(data, 2, 1, shuffle=False))
    (batch,) = next(iter(loader))
    once, _ = _counted_once(loader, 0, len(batch))
    assert once.tolist() == [True] * 4
