"""Co-teaching against two networks in plain torch, and the promises of the design for it."""

import copy
import pickle

import lightning as L
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.utils.data import DataLoader

import zoo
from law_lightning import CoTeachingCallback, models
from law_lightning.capture.loss_capture import LossCapture
from law_lightning.data import DigitsDataModule, UniformNoise
from law_lightning.second_network.peer import LateCapture, redraw_parameters
from law_lightning.weighting.small_loss import forget_rate_at, small_loss_weights
from test_promises import MATRIX
from zoo import assert_identical, differ, fit, loaders, make_data, make_trainer, plain


def co_teaching(forget_rate=0.4, **kwargs):
    return CoTeachingCallback(forget_rate, **{"gradual_epochs": 2, "num_stages": 5} | kwargs)


# -- the equations -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tau", "gradual", "exponent"), [(0.4, 10, 1.0), (0.2, 5, 2.0), (0.45, 1, 1.0), (0.0, 10, 1.0)]
)
def test_the_published_schedule(tau, gradual, exponent):
    published = np.ones(200) * tau
    published[:gradual] = np.linspace(0, tau**exponent, gradual)
    ours = [forget_rate_at(epoch, tau, gradual, exponent) for epoch in range(200)]
    np.testing.assert_allclose(ours, published, rtol=1e-12)


LOSSES = st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0, 7.0, float("inf"), float("nan")]), min_size=1, max_size=40)


@given(LOSSES, st.floats(0, 0.999), st.data())
def test_the_selection_is_that_of_a_sort(losses, forget, data):
    valid = data.draw(st.none() | st.lists(st.booleans(), min_size=len(losses), max_size=len(losses)))
    possible = [i for i in range(len(losses)) if valid is None or valid[i]]
    number = max(int((1 - forget) * len(possible)), 1)
    ranked = sorted(possible, key=lambda i: (losses[i] != losses[i], losses[i] if losses[i] == losses[i] else 0, i))
    mask = None if valid is None else torch.tensor(valid)
    weights = small_loss_weights(torch.tensor(losses), forget, mask)
    assert set(weights.nonzero().flatten().tolist()) == set(ranked[:number])
    if possible:  # so that the weighted mean is that of the chosen
        assert weights.sum().item() == pytest.approx(len(possible), rel=1e-5)
        assert weights[weights > 0].unique().tolist() == pytest.approx([len(possible) / number])


# -- weights that come late --------------------------------------------------------------------------------


def _entropy(x, net, y):
    return 0.5 * F.cross_entropy(net(x), y, label_smoothing=0.1)


def _ignoring(x, net, y):
    criterion = nn.CrossEntropyLoss(weight=torch.arange(1.0, zoo.CLASSES + 1), ignore_index=2)
    return criterion(net(x), y) + 0.1 * criterion(-net(x), y)  # a second head on the same target


def _dense(x, net, y):
    return F.cross_entropy(net(x).unsqueeze(2).expand(-1, -1, 3), y.unsqueeze(1).expand(-1, 3))


def _explicit(x, net, y):
    logits = net(x)
    losses = F.cross_entropy(logits, y, reduction="none")
    return {"loss": 2 * losses.mean(), "losses": losses, "logits": logits, "target": y}


@pytest.mark.parametrize("step", [_entropy, _ignoring, _dense, _explicit])
@pytest.mark.parametrize("ones", [False, True])
def test_late_weights_give_the_gradient_of_early_ones(step, ones):
    torch.manual_seed(0)
    net, x, y = nn.Linear(5, zoo.CLASSES), torch.randn(12, 5), torch.randint(zoo.CLASSES, (12,))

    def gradient(output):
        net.zero_grad()
        (output["loss"] if isinstance(output, dict) else output).backward()
        return net.weight.grad.clone()

    def weigh(samples):
        return None if ones else torch.linspace(0, 2, len(samples)) * samples.loss

    with LossCapture(weigh) as early:
        output = step(x, net, y)
    expected = gradient(early.take_output(output))
    with LateCapture() as late:
        output = step(x, net, y)
    output = late.take_output(output)
    late.settle([weigh(samples) for samples in late.samples])
    assert torch.equal(gradient(output), expected)


# -- against plain torch -----------------------------------------------------------------------------------


class MLP(zoo.Base):
    """Nothing random in it, so that two loops can be compared."""

    def make_net(self):
        return nn.Sequential(nn.Flatten(), nn.Linear(36, 32), nn.ReLU(), nn.Linear(32, zoo.CLASSES))


class Conv(zoo.Base):
    def make_net(self):
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, zoo.CLASSES)
        )


def other(module, seed=11):
    torch.manual_seed(seed)
    return module()


def plain_co_teaching(nets, batches, epochs, schedule):
    """Algorithm 1 in torch alone."""
    optimizers = [torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, nesterov=True) for net in nets]
    for epoch in range(epochs):
        for x, y in batches:
            outputs = [net(x) for net in nets]
            keep = max(int((1 - schedule[epoch]) * len(x)), 1)
            chosen = [F.cross_entropy(out, y, reduction="none").argsort(stable=True)[:keep] for out in outputs]
            for optimizer, output, theirs in zip(optimizers, outputs, reversed(chosen), strict=True):
                optimizer.zero_grad()
                F.cross_entropy(output[theirs], y[theirs]).backward()
                optimizer.step()


@pytest.mark.parametrize("module", [MLP, Conv])
def test_both_networks_are_those_of_plain_torch(module):
    first, second = other(module, 5), other(module, 6)
    nets = copy.deepcopy(first.net), copy.deepcopy(second.net)
    train = DataLoader(make_data(92, seed=1), batch_size=16)
    schedule = [0.0, 0.2, 0.4, 0.4, 0.4]  # linspace(0, 0.4, 3), then 0.4
    plain_co_teaching(nets, list(train), 5, schedule)

    callback = CoTeachingCallback(0.4, gradual_epochs=3, peer=second, num_stages=5)
    trainer = make_trainer([callback], max_epochs=5)
    trainer.fit(first, train)
    for ours, theirs in ((first.net, nets[0]), (callback.peer.net, nets[1])):
        for name, value in theirs.state_dict().items():
            torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-4, atol=1e-5)
    assert [record["forget_rate"] for record in callback.history] == pytest.approx(schedule)
    for record in callback.history:
        assert record["agreement"] == 1.0 if record["forget_rate"] == 0 else 0.5 < record["agreement"] < 1
        assert record["weight_min"] == (1.0 if record["forget_rate"] == 0 else 0.0)
        assert record["weight_mean"] == pytest.approx(1)
    for name in ("forget_rate", "peer_loss", "peer_accuracy", "agreement"):
        assert float(trainer.callback_metrics[f"law/{name}"]) == pytest.approx(callback.history[-1][name])


WITHOUT_OPTIONS = [zoo.BatchNormCNN, zoo.Mixup, zoo.ExplicitDict, zoo.Auxiliary, zoo.TwoHeads, zoo.Hooked]
SYMMETRIC = {module.__name__: (module, {}) for module in WITHOUT_OPTIONS}
SYMMETRIC |= {
    "accumulate": (zoo.AdamCosine, zoo.TRAINERS["accumulate"]),
    "clip_norm": (zoo.AdamCosine, zoo.TRAINERS["clip_norm"]),
    "bf16": (zoo.BatchNormCNN, zoo.TRAINERS["bf16"]),
    "fp16": (zoo.AdamCosine, zoo.TRAINERS["fp16"]),
}


@pytest.mark.one_in(2)
@pytest.mark.parametrize("name", SYMMETRIC)
def test_the_networks_may_change_places(name):
    """Whichever of two networks is the user's, both end the same, bit for bit."""
    module, options = SYMMETRIC[name]

    def run(first, second):
        L.seed_everything(4, verbose=False)
        callback = co_teaching(peer=second)
        make_trainer([callback], **options).fit(first, *loaders())
        return first.state_dict(), callback.peer.state_dict()

    one, two = run(other(module, 5), other(module, 6))
    two_again, one_again = run(other(module, 6), other(module, 5))
    assert_identical(one, one_again)
    assert_identical(two, two_again)
    assert differ(one, two)


# -- a forget rate of 0 ------------------------------------------------------------------------------------


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    ("module", "name"),
    [pair for pair in MATRIX if pair[0] is not zoo.LineSearch],
    ids=lambda x: x if isinstance(x, str) else x.__name__,
)
def test_forgetting_nothing_is_plain_training(module, name):
    callback = co_teaching(0.0)
    trained = fit(module, [callback], **zoo.TRAINERS[name])
    assert_identical(trained.state_dict(), plain(module, name))
    assert differ(callback.peer.state_dict(), plain(module, name))
    assert [record["agreement"] for record in callback.history] == [1.0] * 5


def test_wrong_labels_are_left_out():
    L.seed_everything(0, verbose=False)
    data = DigitsDataModule(train_size=300, val_size=100, batch_size=50, corruption=UniformNoise(0.5, seed=1))
    module = models.ImageClassifier(models.MLP((1, 8, 8), 10, hidden=(32,)), lr=0.1)
    make_trainer([callback := co_teaching(analyse_labels=True)], max_epochs=10).fit(module, datamodule=data)
    early, late = callback.history[0], callback.history[-1]
    assert late["weight_clean"] > early["weight_clean"] > 1 > early["weight_wrong"] > late["weight_wrong"]


# -- the beginning -----------------------------------------------------------------------------------------


def test_the_peer_has_initial_parameters_of_its_own():
    module = zoo.BatchNormCNN()
    module.net[5].requires_grad_(False)
    twins = [copy.deepcopy(module) for _ in range(3)]
    before = torch.get_rng_state()
    for twin, seed in zip(twins, (1, 1, 2), strict=True):
        redraw_parameters(twin, seed)
        assert not torch.equal(twin.net[0].weight, module.net[0].weight)
        assert torch.equal(twin.net[5].weight, module.net[5].weight)  # what is frozen is not drawn anew
    assert torch.equal(torch.get_rng_state(), before)
    assert_identical(twins[0].state_dict(), twins[1].state_dict())
    assert not torch.equal(twins[0].net[0].weight, twins[2].net[0].weight)
    layer = nn.TransformerEncoderLayer(8, 2)  # attention has no public name for it
    redraw_parameters(twin := copy.deepcopy(layer), 1)
    assert not torch.equal(twin.self_attn.in_proj_weight, layer.self_attn.in_proj_weight)
    assert not twin.self_attn.out_proj.bias.any()  # as its constructor has it


class Scaled(MLP):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.net.append(nn.PReLU())
        self.net.append(nn.utils.parametrizations.weight_norm(nn.Linear(zoo.CLASSES, zoo.CLASSES)))


def test_a_given_peer_is_left_as_it_is():
    given = Scaled()  # which could not be drawn
    before = copy.deepcopy(given.state_dict())
    callback = co_teaching(peer=given)
    make_trainer([callback]).fit(Scaled(), loaders()[0])
    assert_identical(given.state_dict(), before)
    assert callback.peer is not given
    assert differ(callback.peer.state_dict(), before)


# -- degenerate batches ------------------------------------------------------------------------------------


class NaNLoss(MLP):
    """One sample's losses are not numbers, though its gradients are."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        logits = self(x)
        losses = F.cross_entropy(logits, y, reduction="none") + torch.tensor([float("nan")] + [0.0] * (len(x) - 1))
        return {"loss": losses.mean(), "losses": losses, "logits": logits, "target": y}


def test_losses_that_are_no_numbers():
    callback = co_teaching(0.4, gradual_epochs=1)
    trained = fit(NaNLoss, [callback])
    for network in (trained, callback.peer):
        assert all(p.isfinite().all() for p in network.parameters())
    assert callback.history[-1]["agreement"] > 0.5


class SometimesNone(zoo.DropoutMLP):
    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return None if batch_idx == 2 else loss


def test_steps_that_are_skipped():
    callback = co_teaching(0.0)
    assert_identical(fit(SometimesNone, [callback]).state_dict(), fit(SometimesNone).state_dict())
    fit(SometimesNone, [co_teaching()])


# -- bad input ---------------------------------------------------------------------------------------------


BAD = {"forget_rate": [1.0, -0.1, float("nan")], "gradual_epochs": [0, 2.5], "exponent": [0.0], "keep": ["second"]}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_bad_arguments(name, value):
    with pytest.raises(ValueError, match=f"{name} must be"):
        CoTeachingCallback(**{"forget_rate": 0.4, name: value})


class Wide(MLP):
    def make_net(self):
        return nn.Sequential(nn.Flatten(), nn.Linear(36, 64), nn.ReLU(), nn.Linear(64, zoo.CLASSES))


class Twice(torch.optim.SGD):
    """As sharpness-aware minimisation does, it evaluates the loss at two points."""

    def step(self, closure=None):
        closure()
        return super().step(closure)


class Sharpness(MLP):
    def configure_optimizers(self):
        return Twice(self.parameters(), lr=0.1)


class Fickle(MLP):
    def __init__(self, more):
        super().__init__()
        self.register_buffer("more", torch.tensor(more))

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return loss + F.cross_entropy(self(batch[0]), batch[1].flip(0)) if self.more else loss


NOT_DRAWN = r"no reset_parameters.*: the module itself, net.5.parametrizations.weight\..*peer=Scaled\("


@pytest.mark.parametrize(
    ("make", "match", "peer", "options"),
    [
        (Scaled, NOT_DRAWN, None, {}),
        (MLP, "peer is the module that is fitted", "itself", {}),
        (MLP, "peer must be a MLP.*it is a Wide that differs in net.1.weight", Wide, {}),
        (zoo.LineSearch, "LBFGS, runs training_step several times", None, {}),
        (Sharpness, "Sharpness, Twice, runs training_step several times", None, {}),
        (lambda: Fickle(True), r"the first has 2 losses and the second 1", lambda: Fickle(False), {}),
        (lambda: Fickle(False), r"the first has 1 losses and the second 2", lambda: Fickle(True), {}),
        (MLP, r"keep='best'.*there are none", None, {"val_dataloaders": None}),
        (MLP, r"keep='best'.*there are none", None, {"limit_val_batches": 0}),
    ],
)
def test_a_fit_is_refused(make, match, peer, options):
    module, options = make(), {"val_dataloaders": loaders()[1]} | options
    before = {name: value.clone() for name, value in module.state_dict().items()}
    callback = co_teaching(peer=module if peer == "itself" else peer and peer(), keep="best")
    data = {"train_dataloaders": loaders()[0], "val_dataloaders": options.pop("val_dataloaders")}
    with pytest.raises(MisconfigurationException, match=match):
        make_trainer([callback], **options).fit(module, **data)
    assert_identical(module.state_dict(), before)
    assert not {"training_step", "configure_optimizers"} & set(vars(module))


# -- afterwards --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("swapped", [False, True])
def test_the_better_network_is_kept(swapped):
    """One of the two begins trained; it validates better."""
    trained, fresh = other(MLP, 1), other(MLP, 2)
    make_trainer(max_epochs=3).fit(trained, *loaders())
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.mul_(1e-3)  # learns slowly
    first, second = (fresh, trained) if swapped else (trained, fresh)
    callback = co_teaching(peer=second, keep="best", num_stages=1)
    make_trainer([callback], max_epochs=1, limit_train_batches=1).fit(first, *loaders())
    same = not differ(first.state_dict(), callback.peer.state_dict())
    assert same == swapped


@pytest.mark.parametrize("module", [zoo.Hooked, zoo.Mixup, zoo.OwnFunction], ids=lambda m: m.__name__)
def test_both_modules_are_plain_afterwards(module):
    untouched, random, callback = fit(module), torch.get_rng_state(), co_teaching()
    trained = fit(module, [callback])
    assert torch.equal(torch.get_rng_state(), random)
    assert set(vars(trained)) == set(vars(untouched))
    assert list(trained.state_dict()) == list(untouched.state_dict())
    for part in (*trained.modules(), *callback.peer.modules()):
        assert not {**part._forward_hooks, **part._forward_pre_hooks, **part._backward_hooks}
    assert not {"log", "training_step"} & set(vars(callback.peer))
    assert callback.peer._trainer is None
    copy.deepcopy(trained.net)
    if module is not zoo.OwnFunction:  # which holds a lambda
        assert_identical(pickle.loads(pickle.dumps(callback)).peer.state_dict(), callback.peer.state_dict())
    assert len(getattr(trained, "seen", [])) == len(getattr(untouched, "seen", []))
