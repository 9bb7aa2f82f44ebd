"""The reference of modules that are hard to copy or that change a step themselves: plain training, or refused."""

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

from law_lightning import LAWCallback, StrategyAgent
from zoo import (
    CLASSES,
    AdamCosine,
    Base,
    BatchNormCNN,
    DropoutMLP,
    assert_identical,
    differ,
    fit,
    half_precision,
    loaders,
    make_trainer,
)


def law(**kwargs):
    return LAWCallback(StrategyAgent(num_stages=5, warmup_stages=1, episode_noise=2.0), keep="target", **kwargs)


def assert_plain(module, **kwargs):
    """Beside a target that learns otherwise the reference is plain training."""
    callback, options = law(), {"max_epochs": 2} | kwargs
    target, plain = fit(module, [callback], **options), fit(module, **options)
    assert_identical(callback.reference.state_dict(), plain.state_dict())
    assert differ(target.state_dict(), plain.state_dict())
    return plain


# -- copies that deepcopy does not make itself -----------------------------------------------------------------------


class Scripted(BatchNormCNN):
    def make_net(self):
        return torch.jit.script(super().make_net())


class Traced(AdamCosine):
    def make_net(self):
        net = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.Tanh(), nn.Linear(8, CLASSES))
        return torch.jit.trace(net, torch.randn(2, 1, 6, 6))


class Anew(nn.Module):
    """Its copy has initial values of its own, of parameters and of a buffer."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(36, CLASSES)
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        if self.training:
            self.count += 1
        return F.dropout(self.linear(x.flatten(1)), 0.1, self.training) * (1 + self.count / 100)

    def __deepcopy__(self, memo):
        return type(self)()


class OwnCopy(Base):
    def make_net(self):
        return Anew()


class InAList(Base):
    """A parameter that no module registers, but the optimizer trains."""

    def __init__(self):
        super().__init__()
        self.offsets = [nn.Parameter(torch.zeros(CLASSES))]

    def forward(self, x):
        return self.net(x) + self.offsets[0]

    def configure_optimizers(self):
        return torch.optim.SGD([*self.parameters(), *self.offsets], lr=0.1)


@pytest.mark.parametrize("module", [Scripted, Traced, OwnCopy, InAList], ids=lambda m: m.__name__)
def test_the_copied_optimizer_trains_the_copy(module):
    assert_plain(module)


class Itself(Anew):
    def __deepcopy__(self, memo):
        return self


class Shared(Base):
    def make_net(self):
        return Itself()


class Other(Anew):
    def __deepcopy__(self, memo):
        return nn.Linear(36, CLASSES)


class Replaced(Base):
    def make_net(self):
        return Other()


class Tied(OwnCopy):
    """A parameter is tied to one of a part whose copy has new ones."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(36, CLASSES)
        self.head.weight = self.net.linear.weight


class Elsewhere(Base):
    offset = [nn.Parameter(torch.zeros(CLASSES))]  # of the class, so not copied

    def configure_optimizers(self):
        return torch.optim.SGD([*self.parameters(), *self.offset], lr=0.1)


class Rebuilt(torch.optim.SGD):
    """Its copy trains new parameters."""

    def __deepcopy__(self, memo):
        (group,) = self.param_groups
        return type(self)([nn.Parameter(each.detach().clone()) for each in group["params"]], lr=group["lr"])


class RebuiltOptimizer(Base):
    def configure_optimizers(self):
        return Rebuilt(self.parameters(), lr=0.1)


class Table(Base):
    """Functions in a container go on using the original's head."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(36, CLASSES)
        self.heads = {"main": lambda x: self.head(x.flatten(1))}

    def forward(self, x):
        return self.net(x) + self.heads["main"](x)


@pytest.mark.parametrize(
    ("module", "match"),
    [
        (Shared, r"optimizer trains net\.linear\.weight, of which the copy has none of its own"),
        (Replaced, r"net\.weight \[4, 36\] in the place of net\.linear\.weight \[4, 36\].*__deepcopy__"),
        (Tied, r"head\.weight \[4, 36\] in the place of head\.bias \[4\]"),
        (Elsewhere, r"optimizer trains a parameter of shape \[4\] outside of it"),
        (RebuiltOptimizer, r"optimizer trains net\.1\.weight, of which the copy has none of its own"),
        (Table, r"copy of Table .* no gradient for head\.weight, head\.bias"),
    ],
)
@pytest.mark.parametrize("warmup", [0, 1])
def test_a_copy_that_would_not_train_is_refused(module, match, warmup):
    own, callback = module(), law(warmup_stages=warmup)
    with pytest.raises(MisconfigurationException, match=match):
        make_trainer([callback], max_epochs=2).fit(own, *loaders())
    assert (callback.schedule.total_steps, len(callback.history)) == (12, warmup * (module is Table))


class Thaw(L.Callback):
    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            pl_module.frozen.requires_grad_(True)
            trainer.optimizers[0].add_param_group({"params": list(pl_module.frozen.parameters())})


class FrozenShared(Base):
    """Its copies may share a part that is not trained."""

    def __init__(self):
        super().__init__()
        self.frozen = Itself().requires_grad_(False)

    def forward(self, x):
        return self.net(x) + self.frozen(x)

    def configure_optimizers(self):
        return torch.optim.SGD(self.net.parameters(), lr=0.1)


def test_a_shared_part_may_be_frozen_but_not_trained_later():
    fit(FrozenShared, [law()], max_epochs=2)
    with pytest.raises(MisconfigurationException, match=r"optimizer trains frozen\.linear\.weight"):
        fit(FrozenShared, [law(), Thaw()], max_epochs=2)


# -- what the module does between backward and the end of a step -----------------------------------------------------


class Constrained(Base):
    """Skips some steps and decays a rate before the step; clamps and adds noise after it."""

    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure):
        if torch.rand(()) < 0.3:
            optimizer_closure()
            return
        for group in optimizer.param_groups:
            group["lr"] *= 0.97
        optimizer.step(closure=optimizer_closure)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.clamp_(min=0).add_(0.01 * torch.randn_like(parameter) / (1 + self.global_step))


class ClosureFirst(BatchNormCNN):
    """Scales the gradient by what the closure returns."""

    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure):
        loss = optimizer_closure()
        for parameter in self.parameters():
            parameter.grad.mul_(1 + float(loss))
        optimizer.step()
        optimizer.zero_grad()


class TheTrainers(BatchNormCNN):
    """Takes its optimizer and scheduler from the Trainer: those of the target are not the reference's to change."""

    def optimizer_step(self, *args, **kwargs):
        optimizer = self.optimizers()
        assert isinstance(optimizer, torch.optim.SGD)
        with torch.no_grad():
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.mul_(1 - 0.1 * group["lr"])
        super().optimizer_step(*args, **kwargs)
        self.lr_schedulers().total_steps += 1


class ReadsTheRate(BatchNormCNN):
    """Scales its loss by the rate of a scheduler that moves at every step."""

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) * (1 + 10 * self.lr_schedulers().get_last_lr()[0])


class CountsEpochs(AdamCosine):
    """Depends on two schedulers, in a step and after it."""

    def configure_optimizers(self):
        (optimizer,), schedulers = super().configure_optimizers()
        return [optimizer], [*schedulers, torch.optim.lr_scheduler.ConstantLR(optimizer, 0.5)]

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) * (1 + self.lr_schedulers()[0].last_epoch)

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.net[1].bias.data.add_(1e-2 * self.lr_schedulers()[1].last_epoch)


class Scaled(DropoutMLP):
    """Depends on the number of steps, and its hook on the loss that the Trainer gives it."""

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) / (1 + self.global_step)

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.net[1].bias.data.add_(1e-2 * outputs["loss"])


class ParameterHooks(AdamCosine):
    """Clips gradients by hooks of the parameters: a function that refers to the module, and a method."""

    def __init__(self):
        super().__init__()
        self.calls = 0
        for parameter in self.parameters():
            parameter.register_hook(lambda gradient: gradient.clamp(-0.1 / (1 + self.calls), 0.01))
            parameter.register_post_accumulate_grad_hook(self.count)

    def count(self, parameter):
        self.calls += 1


class StepHooks(Base):
    """Clamps the weights by a hook of the optimizer."""

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()

        def clamp(optimizer, args, kwargs):
            for parameter in self.parameters():
                parameter.data.clamp_(min=0)

        optimizer.register_step_post_hook(clamp)
        return optimizer


IN_STEP = [Constrained, ClosureFirst, TheTrainers, ReadsTheRate, CountsEpochs, Scaled, ParameterHooks, StepHooks]


@pytest.mark.parametrize(
    ("module", "options"),
    [
        *((each, {}) for each in IN_STEP),
        (Constrained, {"plugins": half_precision}),
        *((each, {"accumulate_grad_batches": 2}) for each in (ClosureFirst, Scaled)),
    ],
)
def test_the_reference_takes_the_modules_own_step(module, options):
    """And leaves the target's step as it is: with weights of one that is plain training too."""
    plain = assert_plain(module, **options)
    same = LAWCallback(StrategyAgent(num_stages=2, warmup_stages=1), keep="target", explore=False, learn=False)
    trained = fit(module, [same], max_epochs=2, **options)
    assert_identical(trained.state_dict(), plain.state_dict())
    assert set(vars(trained)) == set(vars(plain))
