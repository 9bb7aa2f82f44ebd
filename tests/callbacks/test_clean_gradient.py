"""L2RW and Meta-Weight-Net against their papers' definitions, and the clean batches they draw."""

import itertools
import random
from typing import ClassVar

import lightning as L
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.func import functional_call
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, TensorDataset

from law_lightning import weighted
from law_lightning.callbacks.l2rw import L2RWCallback, reweighted
from law_lightning.callbacks.meta_weight_net import MetaWeightNetCallback, WeightNet
from law_lightning.second_network.clean_gradient import CleanBatches, endless_order
from matrix import Stream
from zoo import AdamCosine, Base, DropoutMLP, assert_identical, fit, loaders, make_data, make_trainer

# -- L2RW ---------------------------------------------------------------------------------------------------------


class Batches(L.Callback):
    def __init__(self):
        self.seen = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.seen.append([each.clone() for each in batch])


@pytest.fixture
def drawn(monkeypatch):
    """The clean batches of a fit; the first of them is tried before it begins, and then drawn again."""
    found, take = [], CleanBatches.take

    def noted(self, number):
        step = take(self, number)
        found.append([each.clone() for each in step.args[0]])
        return step

    monkeypatch.setattr(CleanBatches, "take", noted)
    return found


class Smooth(Base):
    """No dropout, so that a naive loop sees the same."""

    options: ClassVar[dict] = {}

    def make_net(self):
        return nn.Sequential(nn.Flatten(), nn.Linear(36, 16), nn.Tanh(), nn.Linear(16, 4))

    def losses(self, logits, y):
        return F.cross_entropy(logits, y, reduction="none", **self.options)

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0]), batch[1], **self.options)

    def divisor(self, y):
        """What torch documents its mean to divide by."""
        weight = self.options.get("weight", torch.ones(4))
        return weight[y][y != self.options.get("ignore_index", -100)].sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class ClassWeights(Smooth):
    options: ClassVar[dict] = {"weight": torch.tensor([4.0, 1.0, 0.5, 2.0])}


class Ignored(Smooth):
    options: ClassVar[dict] = {"weight": torch.tensor([4.0, 1.0, 0.5, 2.0]), "ignore_index": 3}


class Summed(Smooth):
    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0]), batch[1], reduction="sum")

    def divisor(self, y):
        return 1


class Own(Smooth):
    """The losses of a torch function, which are not weighted twice."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        logits = self(x)
        return weighted(self.losses(logits, y), logits, y).mean()


LOSSES = pytest.mark.parametrize("module_class", [Smooth, ClassWeights, Ignored, Summed, Own])


def fit_and_repeat(callback, module_class, drawn, loss_of, **tolerance):
    """Compare a fit with a method with a loop over its batches, in which ``loss_of`` differentiates through a step."""
    batches = Batches()
    trained = fit(module_class, [callback, batches])
    L.seed_everything(3, verbose=False)
    module = module_class()
    optimizer = module.configure_optimizers()

    def clean_loss_after(loss, rate, x, y):
        """The loss on a clean batch after a step that is itself part of the graph."""
        gradient = torch.autograd.grad(loss, list(module.parameters()), create_graph=True)
        ahead = {n: p - rate * g for (n, p), g in zip(module.named_parameters(), gradient, strict=True)}
        return module.losses(functional_call(module, ahead, (x,)), y).sum() / module.divisor(y)

    for batch, (clean_x, clean_y) in zip(batches.seen, drawn[1:], strict=True):
        loss = loss_of(module, *batch, lambda loss, rate, x=clean_x, y=clean_y: clean_loss_after(loss, rate, x, y))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for name, value in module.state_dict().items():
        torch.testing.assert_close(trained.state_dict()[name], value, **tolerance)


@LOSSES
def test_l2rw_is_the_two_step_definition(module_class, drawn):
    """Weights of zero, a look-ahead step, its clean loss differentiated by the weights (Algorithm 1 of the paper)."""

    def loss_of(module, x, y, clean_loss_after):
        epsilon = torch.zeros(len(x), requires_grad=True)
        clean_loss = clean_loss_after((epsilon * module.losses(module(x), y)).sum(), 0.05)
        weights = (-torch.autograd.grad(clean_loss, epsilon)[0]).clamp_min(0)
        weights = weights / weights.sum() if weights.sum() > 0 else weights
        return (weights.detach() * module.losses(module(x), y)).sum()

    fit_and_repeat(L2RWCallback(num_stages=5), module_class, drawn, loss_of, rtol=2e-3, atol=2e-4)


class OtherTarget(Own):
    def losses(self, logits, y):
        return F.cross_entropy(logits, F.one_hot(y, 4).float(), reduction="none")


def test_losses_that_forward_mode_cannot_tell_apart():
    with pytest.raises(MisconfigurationException, match="finds 2 losses in forward mode, but 1 in the step"):
        fit(OtherTarget, [L2RWCallback(num_stages=5)])
    fit(OtherTarget, [L2RWCallback(num_stages=5, products="double_backward")])


def test_no_sample_helps():
    products = torch.tensor([-1.0, 0.0, float("nan"), float("-inf")])
    assert reweighted(products).tolist() == [0, 0, 0, 0]
    assert reweighted(torch.tensor([1.0, 2.0]), torch.tensor([True, False])).tolist() == [1, 0]


# -- Meta-Weight-Net ----------------------------------------------------------------------------------------------


@LOSSES
def test_meta_weight_net_is_differentiating_through_the_step(module_class, drawn):
    callback = MetaWeightNetCallback(lr=0.01, num_stages=5)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = WeightNet()
    learner = torch.optim.Adam(net.parameters(), lr=0.01, weight_decay=1e-4)

    def loss_of(module, x, y, clean_loss_after):
        losses = module.losses(module(x), y)
        learner.zero_grad()
        clean_loss_after((net(losses.detach()) * losses).sum() / module.divisor(y), 0.1).backward()
        learner.step()
        losses = module.losses(module(x), y)
        return (net(losses.detach()).detach() * losses).sum() / module.divisor(y)

    fit_and_repeat(callback, module_class, drawn, loss_of, rtol=1e-3, atol=1e-4)
    for name, value in net.state_dict().items():
        torch.testing.assert_close(callback.weight_net.state_dict()[name], value, rtol=1e-3, atol=1e-4)


# -- bad input ----------------------------------------------------------------------------------------------------

BOTH = pytest.mark.parametrize("callback", [L2RWCallback, MetaWeightNetCallback])


@BOTH
@pytest.mark.parametrize(
    ("clean", "message"),
    [
        (None, "Callback needs clean data"),
        (TensorDataset(torch.randn(20, 5)), r"failed on one.*clean="),
        (Stream(32, 1, False, 0, 1), "read by index and holds samples, not Stream"),
    ],
)
def test_clean_data_that_cannot_be_used(callback, clean, message):
    clean = clean and DataLoader(clean, batch_size=4)
    with pytest.raises(MisconfigurationException, match=message):
        make_trainer([callback(clean, num_stages=5)]).fit(DropoutMLP(), loaders()[0])


@BOTH
@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"products": "exact"}, "products must be"),
        ({"clean": [1, 2]}, "clean must be a DataLoader"),
        ({"clean_batch_size": 0}, "clean_batch_size must be"),
    ],
)
def test_bad_arguments(callback, kwargs, message):
    with pytest.raises(ValueError, match=message):
        callback(**kwargs)
    for options in ({"hidden": 0}, {"lr": 0.0}, {"weight_decay": -1.0}):
        with pytest.raises(ValueError, match="hidden must be"):
            MetaWeightNetCallback(**options)


@BOTH
def test_degenerate_batches(callback):
    """One sample, one class, infinite losses: defined, and nothing but finite weights."""
    x, y = make_data(40, seed=1).tensors
    infinite = x.clone()
    infinite[::7] = float("inf")
    for inputs, labels, batch_size in ((infinite, y, 8), (x, y * 0, 8), (x, y, 1)):
        method, loader = callback(num_stages=5), DataLoader(TensorDataset(inputs, labels), batch_size=batch_size)
        L.seed_everything(3, verbose=False)
        make_trainer([method], max_epochs=1).fit(Smooth(), loader, loaders()[1])
        for record in method.history:
            assert all(0 <= record[name] < 1e4 for name in ("weight_mean", "weight_min", "weight_max"))


def test_the_weight_net_computes_in_full_precision():
    losses, net = torch.linspace(0, 1, 20), WeightNet()
    with torch.autocast("cpu", torch.bfloat16):
        within = net(losses)
    assert torch.equal(within, net(losses))


# -- clean batches -------------------------------------------------------------------------------------------------


class Compiled(DropoutMLP):
    def make_net(self):
        return torch.compile(super().make_net(), backend="aot_eager")


def test_a_network_compiled_to_free_its_graph_is_named():
    with pytest.raises(MisconfigurationException, match=r"MetaWeightNetCallback takes two.*donated_buffer = False"):
        fit(Compiled, [MetaWeightNetCallback(num_stages=2)], max_epochs=1)
    fit(Compiled, [L2RWCallback(num_stages=2)], max_epochs=1)


class Augmented(Dataset):
    """Draws from every random state there is."""

    def __init__(self, count=64):
        self.data = make_data(count, seed=9)

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        x, y = self.data[index]
        return x + torch.randn(1) * random.random() + np.random.rand(), y  # noqa: NPY002


def test_augmentation_draws_anew_for_every_clean_batch(drawn):
    """And the same with workers as without."""
    workers, found = {"num_workers": 1, "prefetch_factor": 4, "multiprocessing_context": "fork"}, []
    for options in ({}, workers):
        fit(Smooth, [L2RWCallback(DataLoader(Augmented(), batch_size=16, **options), num_stages=2)], max_epochs=2)
        found.append(drawn[1:])
        drawn.clear()
    batches, by_workers = found
    for one, other in zip(batches, by_workers, strict=True):
        assert all(map(torch.equal, one, other))
    clean = make_data(64, seed=9).tensors[0].flatten(1)
    shifts = set()
    for x, _ in batches:
        flat = x.flatten(1)
        origin = torch.cdist(flat - flat.mean(1, keepdim=True), clean - clean.mean(1, keepdim=True)).argmin(1)
        shifts |= {round(float(shift), 4) for shift in (flat - clean[origin]).mean(1)}
    assert len(shifts) > 0.9 * sum(len(x) for x, _ in batches)


def test_every_pass_over_the_clean_data_has_an_order_of_its_own():
    batches = list(itertools.islice(endless_order(10, 3, (1, 2), 0), 9))
    assert [number for number, *_ in batches] == list(range(9))
    passes = [[index for _, *indices in batches[first : first + 3] for index in indices] for first in (0, 3, 6)]
    assert all(len(set(each)) == 9 for each in passes)
    assert passes[0] != passes[1] != passes[2]
    assert list(itertools.islice(endless_order(10, 3, (1, 2), 4), 5)) == batches[4:]  # from anywhere


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_stop_loses_nothing_of_augmented_clean_batches(num_workers, tmp_path):
    def method():
        clean = DataLoader(Augmented(), batch_size=16, num_workers=num_workers)
        return L2RWCallback(clean, num_stages=5)

    saving = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    whole = fit(AdamCosine, [method(), saving], max_epochs=2).state_dict()
    again = fit(AdamCosine, [method()], ckpt_path=tmp_path / "step=6.ckpt", max_epochs=2).state_dict()
    assert_identical(again, whole)


def test_clean_batches_have_the_size_of_the_trainings_own(drawn):
    data = make_data(96, seed=1)
    loader = DataLoader(data, batch_sampler=BatchSampler(RandomSampler(data), 7, drop_last=False))
    make_trainer([L2RWCallback(num_stages=2)], max_epochs=1).fit(Smooth(), loader, loaders()[1])
    assert {len(x) for x, _ in drawn} == {7}
