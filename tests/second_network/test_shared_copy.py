"""Gradients and directional derivatives of a step, against loops over samples with autograd."""

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

from law_lightning.callbacks import L2RWCallback
from law_lightning.capture.loss_capture import LossCapture
from law_lightning.second_network.second_network import StepRecord
from law_lightning.second_network.shared_copy import SharedCopy
from law_lightning.utilities.randomness import replaying
from zoo import MODULES, TRAINERS, Base, BatchNormCNN, DropoutMLP, ExplicitDict, Mixup, TwoHeads, assert_identical, fit

MODES = pytest.mark.parametrize("mode", ["forward", "double_backward"])


class Looking(L.Callback):
    """Runs ``look(copy, module, step)`` before the steps of a fit, with one copy for all of them."""

    def __init__(self, look, mode="forward", steps=(0, 5)):
        self.look, self.mode, self.steps, self.ran = look, mode, steps, 0

    def on_train_start(self, trainer, pl_module):
        self.copy = SharedCopy(trainer, pl_module, self.mode)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step in self.steps:
            self.look(self.copy, pl_module, StepRecord((batch, batch_idx)).copy())
            self.ran += 1


def direction_of(module):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(p.shape, generator=generator) for p in module.parameters()]


class Tanh(Base):
    def make_net(self):
        return nn.Sequential(nn.Flatten(), nn.Linear(36, 16), nn.Tanh(), nn.Dropout(0.3), nn.Linear(16, 4))


class Grown(Tanh):
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
        return F.cross_entropy(logits + self.kept["h"][:, :4], y)


class GradientPenalty(Tanh):
    """A step that itself differentiates, and computes a loss without a gradient first."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        with torch.no_grad():
            self.log("before", F.cross_entropy(self(x), y))
        x = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(F.cross_entropy(self(x), y, reduction="sum"), x, create_graph=True)
        return F.cross_entropy(self(x) + slope.flatten(1)[:, :4], y)


class SelfDistilled(Tanh):
    """The network's own output without a gradient is a part of the loss."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        with torch.no_grad():
            running = torch.zeros(4).add_(self(x).mean(0))
        return F.cross_entropy(self(x) - running - self(x).detach().softmax(1), y)


AS_USERS_WRITE_THEM = [Grown, Watched, GradientPenalty, SelfDistilled]


@MODES
@pytest.mark.parametrize(
    "module", [DropoutMLP, BatchNormCNN, Mixup, TwoHeads, ExplicitDict, *AS_USERS_WRITE_THEM], ids=lambda m: m.__name__
)
def test_products_are_those_of_each_samples_gradient(module, mode):
    """The module's own step, from the same random states, differentiated sample by sample."""

    def look(copy, owner, step):
        direction, parameters = direction_of(owner), list(owner.parameters())
        found, own, losses = copy.products(step, direction), step.copy(), []
        with replaying(step.random), LossCapture(lambda s: losses.append(s.loss), attached=True) as capture:
            capture.take_output(owner.training_step(*own.args))
        assert len(found) == len(losses) == 1 + (module in (Mixup, TwoHeads))
        for products, loss in zip(found, losses, strict=True):
            for product, each in zip(products, loss, strict=True):
                gradient = torch.autograd.grad(each, parameters, retain_graph=True, materialize_grads=True)
                expected = sum((g * d).sum() for g, d in zip(gradient, direction, strict=True))
                torch.testing.assert_close(product, expected, rtol=5e-4, atol=5e-5)

    looking = Looking(look, mode)
    fit(module, [looking], max_epochs=1)
    assert looking.ran == 2


def everything(copy, owner, step):
    copy.products(step, copy.gradient(step))
    copy.gradient(step, at=[p.detach() + 1 for p in copy.parameters()])


@MODES
@pytest.mark.parametrize("module", [*MODULES, *AS_USERS_WRITE_THEM], ids=lambda m: m.__name__)
def test_the_training_is_left_as_it_is(module, mode):
    assert_identical(fit(module, [Looking(everything, mode)]).state_dict(), fit(module).state_dict())


@pytest.mark.parametrize("trainer", TRAINERS)
def test_any_trainer_is_left_as_it_is(trainer):
    touched = fit(BatchNormCNN, [Looking(everything)], **TRAINERS[trainer])
    assert_identical(touched.state_dict(), fit(BatchNormCNN, **TRAINERS[trainer]).state_dict())


def test_a_small_direction_survives_float16():
    def look(copy, owner, step):
        direction = direction_of(owner)
        (found,), (small,) = copy.products(step, direction), copy.products(step, [1e-9 * each for each in direction])
        torch.testing.assert_close(small * 1e9, found, rtol=1e-2, atol=1e-2)

    looking = Looking(look)
    fit(DropoutMLP, [looking], **TRAINERS["fp16"])
    assert looking.ran


# -- what cannot be differentiated ---------------------------------------------------------------------------------


class Recurrent(Base):
    """An LSTM, whose fused cell has no forward-mode derivative."""

    def make_net(self):
        return nn.LSTM(6, 8, batch_first=True)

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.net(x.squeeze(1))[0][:, -1])


class OwnStep(Tanh):
    """A step that differentiates by the parameters, as MAML does."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        gradient = torch.autograd.grad(F.cross_entropy(self(x), y, reduction="sum"), list(self.parameters()))
        return F.cross_entropy(self(x), y) + 0.1 * sum(g.square().mean() for g in gradient)


@pytest.mark.parametrize(("module", "message"), [(Recurrent, "forward AD with mkldnn_rnn"), (OwnStep, "require grad")])
def test_an_operator_without_a_forward_derivative_is_named(module, message):
    with pytest.raises(
        MisconfigurationException, match=rf"differentiate {module.__name__}\..*{message}.*products='double_backward'"
    ):
        fit(module, [L2RWCallback(num_stages=5)])
    fit(module, [L2RWCallback(num_stages=5, products="double_backward")])


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return gradient * 2


class OnceBefore(Base):
    """The last layer's gradients alone can be differentiated twice."""

    def forward(self, x):
        return self.net[4](Once.apply(self.net[:4](x)))


def test_an_operator_that_cannot_be_differentiated_twice_is_named():
    with pytest.raises(MisconfigurationException, match=r"OnceBefore\..*once_differentiable.*products='forward'"):
        fit(OnceBefore, [L2RWCallback(num_stages=5, products="double_backward")])


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
        self.seen["losses"].append(loss)
        return loss


def test_the_copy_begins_every_run_where_the_module_is():
    def look(copy, owner, step):
        for _ in range(2):  # a run leaves nothing for the next one
            copy.gradient(step)
        with copy._running(step, owner.parameters()):
            assert torch.equal(copy._twin.prior, owner.prior)
            assert copy._twin.net[0].temperature == owner.net[0].temperature
            assert copy._twin.seen == owner.seen
            assert copy._twin.seen["losses"] is not owner.seen["losses"]

    looking = Looking(look, steps=range(24))
    fit(Running, [looking])
    assert looking.ran > 20
