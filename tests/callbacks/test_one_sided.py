"""Callbacks that may change the steps of the user's network alone: named in one warning, or refused."""

import functools
import inspect
import re
import warnings
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from lightning.pytorch import callbacks
from lightning.pytorch.callbacks import LambdaCallback, ModelCheckpoint, ModelPruning, Timer
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from law_lightning import LAWCallback, StrategyAgent
from law_lightning.callbacks import CoTeachingCallback, L2RWCallback
from law_lightning.callbacks.checks import warn_of_one_sided
from zoo import Base, fit


def law(mode="search", **kwargs):
    return LAWCallback(StrategyAgent(num_stages=5), mode, **kwargs)


class Average(L.Callback):
    """An average of one's own, which is swapped in for validation."""

    def __init__(self):
        self.average = None

    def on_before_zero_grad(self, trainer, pl_module, optimizer):
        values = [each.detach().clone() for each in pl_module.parameters()]
        self.average = values if self.average is None else torch._foreach_lerp(self.average, values, 0.1)

    def on_validation_start(self, trainer, pl_module):
        self.swap(pl_module)

    def on_validation_end(self, trainer, pl_module):
        self.swap(pl_module)

    def swap(self, module):
        for own, mean in zip(module.parameters(), self.average or (), strict=False):
            own.data, mean.data = mean.data, own.data


class Clip(L.Callback):
    def on_after_backward(self, trainer, pl_module):
        torch.nn.utils.clip_grad_norm_(pl_module.parameters(), 0.1)


class Project(Clip):
    def on_train_batch_end(self, *args):
        pass


class Freeze(Timer):
    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        pl_module.net[1].bias.grad = None


def warned(own, others, **kwargs):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(Base, [own, *others], max_epochs=1, **kwargs)
    return [str(each.message) for each in caught if "trains a second network" in str(each.message)]


@pytest.mark.parametrize(
    ("own", "others", "match"),
    [
        (law, [Average], "LAWCallback .* Average .on_before_zero_grad.*swap in an average.*use keep='target'"),
        (law, [Clip, Freeze], "Clip .on_after_backward.; Freeze .on_before_optimizer_step."),
        (lambda: law(keep="target"), [Project], "Project .on_after_backward, on_train_batch_end."),
        (law, [lambda: LambdaCallback(on_train_batch_end=lambda *args: None)], "LambdaCallback .on_train_batch_end."),
        (lambda: CoTeachingCallback(0.2, num_stages=5), [Clip], "CoTeachingCallback .* Clip .*use keep='first'"),
    ],
)
def test_callbacks_that_act_on_one_network_are_named_once(own, others, match):
    (message,) = warned(own(), [make() for make in others])
    assert re.search(match, message)


def test_partial_functions_and_what_only_reads_its_own_hooks():
    partial = LambdaCallback(on_after_backward=functools.partial(print))
    with pytest.warns(UserWarning, match="LambdaCallback .on_after_backward."):
        warn_of_one_sided(SimpleNamespace(callbacks=[partial]), law(), "target")
    assert warned(law("apply"), [Average(), Clip()]) == []  # there is one network


def test_lightnings_own_are_not_warned_of():
    own = [each for _, each in inspect.getmembers(callbacks, inspect.isclass) if not inspect.isabstract(each)]

    class Named(ModelCheckpoint):
        def on_train_batch_end(self, *args, **kwargs):
            super().on_train_batch_end(*args, **kwargs)

    class Bar(callbacks.ProgressBar):
        def on_train_batch_end(self, *args):
            pass

    made = [object.__new__(each) for each in (*own, Named, Bar) if issubclass(each, L.Callback)]
    assert len(made) > 20
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_one_sided(SimpleNamespace(callbacks=[*made, law()]), made[0], "target")


@pytest.mark.parametrize("own", [law, lambda: CoTeachingCallback(0.2), L2RWCallback])
def test_pruning_is_refused_beside_a_second_network(own):
    with pytest.raises(MisconfigurationException, match=r"second network.*ModelPruning replaces parameters"):
        fit(Base, [own(), ModelPruning("l1_unstructured", amount=0.5)])


def test_pruning_with_a_strategy():
    callback = law("apply")
    module = fit(Base, [callback, ModelPruning("l1_unstructured", amount=0.5, use_lottery_ticket_hypothesis=False)])
    assert len(callback.history) == 5
    assert float((module.net[1].weight == 0).float().mean()) > 0.5
