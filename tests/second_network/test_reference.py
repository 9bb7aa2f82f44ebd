"""The reference where the module, or other code, makes it hard: it is plain training, or is refused or told of."""

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

from law_lightning import LAWCallback, StrategyAgent
from zoo import CLASSES, AdamCosine, Base, BatchNormCNN, assert_identical, fit, loaders, make_trainer


def law(**kwargs):
    return LAWCallback(StrategyAgent(num_stages=5, warmup_stages=1, episode_noise=2.0), keep="target", **kwargs)


def assert_plain(module, callbacks=(), **kwargs):
    """Beside a target that learns otherwise the reference is plain training."""
    options = {"max_epochs": 2} | kwargs
    callback = law()
    target = fit(module, [callback, *callbacks], **options)
    expected = fit(module, callbacks, **options).state_dict()
    assert_identical(callback.reference.state_dict(), expected)
    assert any(not torch.equal(value, expected[name]) for name, value in target.state_dict().items())


# -- copies whose parameters are not those that deepcopy knows -------------------------------------------------------


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
    """Tied to a part whose copy does not know of it."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(36, CLASSES)
        self.head.weight = self.net.linear.weight


class Elsewhere(Base):
    offset = [nn.Parameter(torch.zeros(CLASSES))]  # of the class, so not copied

    def configure_optimizers(self):
        return torch.optim.SGD([*self.parameters(), *self.offset], lr=0.1)


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
        (Shared, r"optimizer trains net\.linear\.weight, which the copy shares"),
        (Replaced, r"net\.weight \[4, 36\] in the place of net\.linear\.weight \[4, 36\].*__deepcopy__"),
        (Tied, r"head\.weight \[4, 36\] in the place of head\.bias \[4\]"),
        (Elsewhere, r"optimizer trains a parameter of shape \[4\] that is not part of it"),
        (Table, r"copy of Table .* no gradient for head\.weight, head\.bias"),
    ],
)
def test_a_copy_that_would_not_train_is_refused(module, match):
    own, callback = module(), law()
    with pytest.raises(MisconfigurationException, match=match):
        make_trainer([callback], max_epochs=2).fit(own, *loaders())
    assert (callback.schedule.total_steps, len(callback.history)) == (12, module is Table)
