"""Gradients and directional derivatives of a step, against loops over samples and against autograd."""

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.func import functional_call

from law_lightning.callbacks import L2RWCallback
from law_lightning.capture.loss_capture import LossCapture
from law_lightning.second_network.probe import Probe
from law_lightning.second_network.reference import StepRecord
from law_lightning.utilities.randomness import random_states, set_random_states
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


# -- a copy that follows -------------------------------------------------------------------------------------------


class Running(Base):
    """Keeps on itself, and on a submodule, what its steps make: no buffers."""

    def __init__(self):
        super().__init__()
        self.prior = torch.ones(4) / 4
        self.net[0].temperature = 1.0
        self.seen = {"losses": []}

    def training_step(self, batch, batch_idx):
        x, y = batch
        self.prior = 0.9 * self.prior + 0.1 * F.one_hot(y, 4).float().mean(0)
        self.net[0].temperature *= 1.01
        loss = F.cross_entropy(self(x) * self.net[0].temperature + self.prior.log(), y)
        self.seen["losses"].append(float(loss))
        return loss


def test_the_copy_begins_every_run_where_the_module_is():
    def look(probe, owner, step):
        for _ in range(2):  # a run leaves nothing for the next one
            probe.gradient(step)
        with probe._running(step, None):
            assert torch.equal(probe._twin.prior, owner.prior)
            assert probe._twin.net[0].temperature == owner.net[0].temperature
            assert probe._twin.seen == owner.seen
            assert probe._twin.seen["losses"] is not owner.seen["losses"]

    probe = []

    class Kept(Prober):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            probe.append(probe[0] if probe else Probe(trainer, pl_module))
            look(probe[0], pl_module, StepRecord.of((batch, batch_idx), {}))

    fit(Running, [Kept(look)])
    assert len(probe) > 20


class Tanh(Base):
    """Without kinks, so that finite differences are right."""

    def make_net(self):
        return nn.Sequential(nn.Flatten(), nn.Linear(36, 16), nn.Tanh(), nn.Dropout(0.3), nn.Linear(16, 4))


class Grown(Tanh):
    """Gets a buffer in the middle of an epoch."""

    def on_train_batch_end(self, outputs, batch, batch_idx):
        if self.global_step == 3:
            self.register_buffer("centre", torch.ones(4))

    def forward(self, x):
        return super().forward(x) + getattr(self, "centre", 0.0)


class Watched(Tanh):
    """A forward hook that closes over self keeps what the loss is made of."""

    def __init__(self):
        super().__init__()
        self.kept = {}
        self.net[1].register_forward_hook(lambda module, inputs, output: self.kept.__setitem__("h", output))

    def training_step(self, batch, batch_idx):
        x, y = batch
        logits = self(x)
        return F.cross_entropy(logits, y) + 1e-2 * self.kept["h"].square().mean()


class GradientPenalty(Tanh):
    """A step that itself differentiates, and computes a loss without a gradient first."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        with torch.no_grad():
            self.log("before", F.cross_entropy(self(x), y))
        x = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(F.cross_entropy(self(x), y, reduction="sum"), x, create_graph=True)
        return F.cross_entropy(self(x), y) + 0.1 * slope.square().mean()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("module", [Grown, Watched, GradientPenalty])
def test_products_of_steps_as_users_write_them(module, mode):
    """The copy's products are those of finite differences of its losses, and the training stays as it was."""

    def look(probe, owner, step):
        direction = direction_of(owner)
        length = torch.cat([each.flatten() for each in direction]).norm()
        direction = [each / length for each in direction]
        (found,) = probe.products(step, direction)
        losses = []
        for sign in (-1, 1):
            with torch.no_grad():
                ahead = [p + sign * 1e-3 * d for p, d in zip(owner.parameters(), direction, strict=True)]
            losses.append(losses_at(probe, step, ahead))
        torch.testing.assert_close(found, (losses[1] - losses[0]) / 2e-3, rtol=1e-2, atol=1e-3)

    assert_identical(fit(module, [Prober(look, mode, steps=(0, 4))]).state_dict(), fit(module).state_dict())


class OwnStep(Tanh):
    """A step that differentiates by the parameters, as MAML does."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        gradient = torch.autograd.grad(F.cross_entropy(self(x), y, reduction="sum"), list(self.parameters()))
        return F.cross_entropy(self(x), y) + 0.1 * sum(g.square().mean() for g in gradient)


def test_a_step_that_differentiates_by_the_parameters_is_named():
    with pytest.raises(MisconfigurationException, match=r"OwnStep.*require grad.*products='double_backward'"):
        fit(OwnStep, [L2RWCallback(num_stages=5)])
    fit(OwnStep, [L2RWCallback(num_stages=5, products="double_backward")])


def losses_at(probe, step, parameters):
    """The per-sample losses of a step at other parameters, from its own random states."""
    step = step.copy()
    with probe._running(step, parameters), torch.enable_grad(), LossCapture() as capture:
        probe._twin.training_step(*step.args, **step.kwargs)
    return capture.samples[0].loss


def test_a_small_direction_survives_float16():
    def look(probe, owner, step):
        direction = direction_of(owner)
        small = [1e-9 * each for each in direction]
        (found,), (scaled,) = probe.products(step, direction), probe.products(step, small)
        torch.testing.assert_close(scaled * 1e9, found.float(), rtol=1e-2, atol=1e-2)

    prober = Prober(look)
    fit(DropoutMLP, [prober], **TRAINERS["fp16"])
    assert prober.ran
