"""Gradients and directional derivatives of a step, against loops over samples and against autograd."""

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.func import functional_call

from law_lightning.callbacks.l2rw import L2RWCallback, reweighted
from law_lightning.callbacks.meta_weight_net import MetaWeightNetCallback, WeightNet
from law_lightning.probe import Probe
from law_lightning.randomness import random_states, set_random_states
from law_lightning.reference import StepRecord
from zoo import (
    MODULES,
    TRAINERS,
    AdamCosine,
    Base,
    BatchNormCNN,
    DropoutMLP,
    Mixup,
    TwoHeads,
    assert_identical,
    fit,
    loaders,
    make_data,
    make_trainer,
)

MODES = ("forward", "double_backward")


class Prober(L.Callback):
    """Runs ``look(probe, module, step)`` before the steps of a fit."""

    def __init__(self, look, mode="forward", steps=(0, 5)):
        self.look, self.mode, self.steps, self.ran = look, mode, steps, 0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step in self.steps:
            self.look(Probe(trainer, pl_module, self.mode), pl_module, StepRecord.of((batch, batch_idx), {}))
            self.ran += 1


def direction_of(module, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(p.shape, generator=generator) for p in module.parameters()]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("module", [DropoutMLP, BatchNormCNN, AdamCosine])
def test_products_are_those_of_each_samples_gradient(module, mode):
    """Dropout, BatchNorm in training mode and label smoothing: the loop runs from the same random states."""

    def look(probe, owner, step):
        direction = direction_of(owner)
        (found,) = probe.products(step, direction)
        before = random_states()
        buffers = [buffer.clone() for buffer in owner.buffers()]
        set_random_states(step.random)
        x, y = step.args[0]
        smoothing = 0.1 if module is BatchNormCNN else 0.0
        losses = F.cross_entropy(owner(x), y, reduction="none", label_smoothing=smoothing)
        for i, loss in enumerate(losses):
            gradient = torch.autograd.grad(loss, list(owner.parameters()), retain_graph=True)
            expected = sum((g * d).sum() for g, d in zip(gradient, direction, strict=True))
            torch.testing.assert_close(found[i], expected, rtol=2e-4, atol=2e-5)
        set_random_states(before)
        for buffer, kept in zip(owner.buffers(), buffers, strict=True):
            buffer.data.copy_(kept)

    prober = Prober(look, mode)
    fit(module, [prober])
    assert prober.ran == 2


@pytest.mark.parametrize("module", [Mixup, TwoHeads])
def test_each_target_has_products_of_its_own(module):
    def look(probe, owner, step):
        direction = direction_of(owner)
        forward = probe.products(step, direction)
        assert len(forward) == 2
        probe.mode = "double_backward"
        for one, other in zip(forward, probe.products(step, direction), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)

    fit(module, [Prober(look)])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("module", MODULES)
def test_a_probe_touches_nothing(module, mode):
    def look(probe, owner, step):
        probe.products(step, probe.gradient(step))
        ahead = [p.detach() + 1 for p in probe.parameters()]
        probe.gradient(step, at=ahead)

    assert_identical(fit(module, [Prober(look, mode)]).state_dict(), fit(module).state_dict())


@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_probe_touches_nothing_of_any_trainer(trainer):
    def look(probe, owner, step):
        probe.products(step, probe.gradient(step))

    touched = fit(BatchNormCNN, [Prober(look)], **TRAINERS[trainer])
    assert_identical(touched.state_dict(), fit(BatchNormCNN, **TRAINERS[trainer]).state_dict())


def test_the_gradient_elsewhere_is_that_of_the_module_there():
    def look(probe, owner, step):
        ahead = [p.detach() - 0.1 for p in owner.parameters()]
        found = probe.gradient(step, at=ahead)
        x, y = step.args[0]
        names = [name for name, _ in owner.named_parameters()]
        ahead = [a.requires_grad_() for a in ahead]
        before = random_states()
        set_random_states(step.random)
        loss = F.cross_entropy(functional_call(owner, dict(zip(names, ahead, strict=True)), (x,)), y)
        set_random_states(before)
        for one, other in zip(found, torch.autograd.grad(loss, ahead), strict=True):
            torch.testing.assert_close(one, other)

    fit(DropoutMLP, [Prober(look)])


class Recurrent(Base):
    """An LSTM, whose fused cell has no forward-mode derivative."""

    def make_net(self):
        return nn.LSTM(6, 8, batch_first=True)

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.net(x.squeeze(1))[0][:, -1])


class NoTangent(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 2


class Custom(Base):
    def forward(self, x):
        return NoTangent.apply(super().forward(x))


def test_an_operator_without_a_forward_derivative_is_named():
    with pytest.raises(
        MisconfigurationException, match=r"Custom uses an operator.*NoTangent.*products='double_backward'"
    ):
        fit(Custom, [L2RWCallback(num_stages=5)])
    fit(Custom, [L2RWCallback(num_stages=5, products="double_backward")])


def test_a_recurrent_network_can_be_differentiated_twice():
    fit(Recurrent, [L2RWCallback(num_stages=5, products="double_backward")])


# -- L2RW ---------------------------------------------------------------------------------------------------------


class Smooth(Base):
    """No dropout, so that a naive loop sees the same."""

    def make_net(self):
        return nn.Sequential(nn.Flatten(), nn.Linear(36, 16), nn.Tanh(), nn.Linear(16, 4))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Batches(L.Callback):
    """Keeps the batches of a fit."""

    def __init__(self):
        self.seen = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.seen.append([each.clone() for each in batch])


def clean_batches_of(callback_class, module_class, **kwargs):
    """A fit with a method, its batches, the clean batches it drew, and the module at its beginning."""
    drawn = []

    class Noted(callback_class):
        def on_train_start(self, trainer, pl_module):
            super().on_train_start(trainer, pl_module)
            take = self._batches.take

            def noted():
                step = take()
                drawn.append([each.clone() for each in step.args[0]])
                return step

            self._batches.take = noted

    batches, callback = Batches(), Noted(num_stages=5, **kwargs)
    L.seed_everything(3, verbose=False)
    start = {name: value.clone() for name, value in module_class().state_dict().items()}
    trained = fit(module_class, [callback, batches])
    return trained, callback, start, batches.seen, drawn


def naive(module_class, start):
    module = module_class()
    module.load_state_dict(start)
    return module, [name for name, _ in module.named_parameters()]


def test_l2rw_is_the_two_step_definition():
    """Weights of zero, a look-ahead step, its clean loss differentiated by the weights (Algorithm 1 of the paper)."""
    trained, _, start, batches, clean = clean_batches_of(L2RWCallback, Smooth)
    module, names = naive(Smooth, start)
    optimizer = module.configure_optimizers()
    assert len(batches) == len(clean)
    for (x, y), (clean_x, clean_y) in zip(batches, clean, strict=True):
        epsilon = torch.zeros(len(x), requires_grad=True)
        losses = F.cross_entropy(module(x), y, reduction="none")
        gradient = torch.autograd.grad((epsilon * losses).sum(), list(module.parameters()), create_graph=True)
        ahead = {n: p - 0.05 * g for n, p, g in zip(names, module.parameters(), gradient, strict=True)}
        clean_loss = F.cross_entropy(functional_call(module, ahead, (clean_x,)), clean_y)
        weights = (-torch.autograd.grad(clean_loss, epsilon)[0]).clamp_min(0)
        weights = weights / weights.sum() if weights.sum() > 0 else weights
        loss = (weights.detach() * F.cross_entropy(module(x), y, reduction="none")).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for name, value in module.state_dict().items():
        torch.testing.assert_close(trained.state_dict()[name], value, rtol=2e-3, atol=2e-4)


def test_no_sample_helps():
    products = torch.tensor([-1.0, 0.0, float("nan"), float("-inf")])
    assert reweighted(products).tolist() == [0, 0, 0, 0]
    assert reweighted(torch.tensor([1.0, 2.0]), torch.tensor([True, False])).tolist() == [1, 0]


# -- Meta-Weight-Net ----------------------------------------------------------------------------------------------


def test_meta_weight_net_is_differentiating_through_the_step():
    trained, callback, start, batches, clean = clean_batches_of(MetaWeightNetCallback, Smooth, lr=0.01)
    module, names = naive(Smooth, start)
    optimizer = module.configure_optimizers()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = WeightNet()
    learner = torch.optim.Adam(net.parameters(), lr=0.01, weight_decay=1e-4)
    for (x, y), (clean_x, clean_y) in zip(batches, clean, strict=True):
        losses = F.cross_entropy(module(x), y, reduction="none")
        mean = (net(losses.detach()) * losses).sum() / len(x)
        gradient = torch.autograd.grad(mean, list(module.parameters()), create_graph=True)
        ahead = {n: p - 0.1 * g for n, p, g in zip(names, module.parameters(), gradient, strict=True)}
        learner.zero_grad()
        F.cross_entropy(functional_call(module, ahead, (clean_x,)), clean_y).backward()
        learner.step()
        losses = F.cross_entropy(module(x), y, reduction="none")
        loss = (net(losses.detach()).detach() * losses).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for name, value in module.state_dict().items():
        torch.testing.assert_close(trained.state_dict()[name], value, rtol=1e-3, atol=1e-4)
    for name, value in net.state_dict().items():
        torch.testing.assert_close(callback.weight_net.state_dict()[name], value, rtol=1e-3, atol=1e-4)


# -- bad input ----------------------------------------------------------------------------------------------------

BOTH = pytest.mark.parametrize("callback", [L2RWCallback, MetaWeightNetCallback])


@BOTH
def test_without_clean_data_it_is_refused(callback):
    with pytest.raises(MisconfigurationException, match=f"{callback.__name__} needs clean data"):
        make_trainer([callback(num_stages=5)]).fit(DropoutMLP(), loaders()[0])


@BOTH
def test_clean_data_of_another_kind_are_named(callback):
    other = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(20, 5)), batch_size=4)
    with pytest.raises(MisconfigurationException, match=r"failed on one.*clean="):
        fit(DropoutMLP, [callback(other, num_stages=5)])


@BOTH
def test_clean_data_can_be_given(callback):
    clean = torch.utils.data.DataLoader(make_data(30, seed=7), batch_size=10)
    L.seed_everything(3, verbose=False)
    make_trainer([callback(clean, num_stages=5)]).fit(DropoutMLP(), loaders()[0])


@BOTH
@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"products": "exact"}, "products must be"),
        ({"clean": [1, 2]}, "clean must be a DataLoader"),
        ({"clean_batch_size": 0}, "clean_batch_size must be"),
        ({"num_stages": 0}, "num_stages must be"),
    ],
)
def test_bad_arguments(callback, kwargs, message):
    with pytest.raises(ValueError, match=message):
        callback(**kwargs)


def test_bad_arguments_of_the_weight_net():
    with pytest.raises(ValueError, match="hidden must be"):
        MetaWeightNetCallback(hidden=0)


@BOTH
def test_degenerate_batches(callback):
    """One sample, one class, infinite losses: defined, and nothing but finite weights."""
    x, y = make_data(40, seed=1).tensors
    x = x.clone()
    x[::7] = float("inf")
    for inputs, labels, batch_size in (
        (x, y, 8),
        (make_data(40).tensors[0], y * 0, 8),
        (make_data(40).tensors[0], y, 1),
    ):
        data = torch.utils.data.TensorDataset(inputs, labels)
        method = callback(num_stages=5)
        L.seed_everything(3, verbose=False)
        loader = torch.utils.data.DataLoader(data, batch_size=batch_size)
        make_trainer([method], max_epochs=1).fit(Smooth(), loader, loaders()[1])
        for record in method.history:
            assert all(0 <= record[name] < 1e4 for name in ("weight_mean", "weight_min", "weight_max"))
