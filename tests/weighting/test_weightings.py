import math
import re
import types
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from lightning.fabric.utilities.distributed import DistributedSamplerWrapper
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.utils import data
from torchdata.stateful_dataloader import StatefulDataLoader
from torchvision.ops import sigmoid_focal_loss

from law_lightning import Samples, TrainingPhase, WeightingCallback
from law_lightning import functional as LF
from law_lightning.capture.loss_capture import LossCapture
from law_lightning.utilities.stored_labels import labels_of
from law_lightning.weighting import (
    ClassBalancedWeighting,
    FocalWeighting,
    GCEWeighting,
    LAWWeighting,
    MentorInputs,
    MentorNetWeighting,
    MentorNetwork,
    SelfPacedWeighting,
)
from law_lightning.weighting.base import checked_weights
from law_lightning.weighting.class_balanced import (
    class_balanced_weights,
    loader_gives,
    training_labels,
)
from law_lightning.weighting.focal import focal_factor
from law_lightning.weighting.mentornet import predefined_curriculum
from law_lightning.weighting.self_paced import self_paced_weights
from methods import a_mentor
from zoo import DropoutMLP, assert_identical, fit, make_data, make_trainer

PHASE = TrainingPhase(0, 20, 1.0, 0.0)


def weigh(weighting, loss, stage=0, num_stages=20, num_classes=4, target=None, valid=None):
    loss = torch.as_tensor(loss, dtype=torch.float32)
    target = torch.zeros(len(loss), dtype=torch.long) if target is None else torch.as_tensor(target)
    samples = Samples(loss, torch.zeros(len(loss), num_classes), target, valid=valid)
    return weighting(samples, TrainingPhase(stage, num_stages, 1.0, 0.0))


def weighted(weighting, loss_of):
    """The loss that a step would return, with its graph."""
    with LossCapture(lambda samples: weighting(samples, PHASE), attached=weighting.attached):
        return loss_of()


def same_with_gradient(ours, theirs, logits):
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(loss, logits)[0] for loss in (ours, theirs)))


# -- LAW, and any function ---------------------------------------------------------------------------------------


def law_weighting(theta, **options):
    weighting = LAWWeighting(**options)
    weighting.theta = torch.tensor(theta)
    return weighting


@pytest.fixture
def samples():
    draw = torch.Generator().manual_seed(2)
    logits, target = torch.randn(6, 3, generator=draw), torch.randint(3, (6,), generator=draw)
    return Samples(torch.rand(6, generator=draw), logits, target)


def test_every_sample_weighs_one_in_the_warmup_and_for_a_theta_of_zero(samples):
    assert LAWWeighting().features == LF.FEATURES  # the paper's
    assert LAWWeighting()(samples, PHASE) is None
    assert law_weighting([0.0] * 5)(samples, PHASE).tolist() == [1.0] * 6


def test_margins_are_shifted_and_weights_scaled_by_class(samples):
    weighting = law_weighting([3.0, -1.0, 0.5], features=("margin", "loss"), renormalize=True)
    weighting.margin_shift, weighting.class_ratio = torch.tensor([0.1, -0.2, 0.3]), torch.tensor([1.0, 2.0, 0.5])
    features = LF.sample_features(samples.loss, samples.logits, samples.target, ("margin", "loss"))
    weights = []
    for (margin, loss), c in zip(features.tolist(), samples.target.tolist(), strict=True):
        weights.append(1 + math.tanh(3.0 * (margin + [0.1, -0.2, 0.3][c]) - loss + 0.5))
    mean = sum(weights) / 6
    expected = [w / mean * [1.0, 2.0, 0.5][c] for w, c in zip(weights, samples.target.tolist(), strict=True)]
    assert weighting(samples, PHASE).tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("renormalize", [False, True])
@pytest.mark.parametrize("features", [("loss",), ("label", "loss")])
def test_weights_are_those_of_the_named_features(samples, features, renormalize):
    theta = [*torch.linspace(-1, 1, len(features)).tolist(), 0.3]
    weights = law_weighting(theta, features=features, renormalize=renormalize)(samples, PHASE)
    f = LF.sample_features(samples.loss, samples.logits, samples.target, features)
    expected = LF.sample_weights(f, torch.tensor(theta))
    torch.testing.assert_close(weights, expected / expected.mean() if renormalize else expected)


def test_without_features_b_alone_weighs(samples):
    """A sample without a label has none, nor has a batch of one."""
    weighting, valid = law_weighting([1.0, 2.0, -1.0, 0.5, -0.4]), torch.arange(6) != 2
    weights = weighting(replace(samples, valid=valid), PHASE)
    assert weights[2].item() == weigh(weighting, [3.0]).item() == pytest.approx(1 + math.tanh(-0.4))
    assert not torch.equal(weights[valid], weighting(samples, PHASE)[valid])


def test_weights_carry_no_gradient_and_theta_moves_to_the_samples_device(samples):
    weighting = law_weighting([0.0, 0.0], features=("loss",))
    weighting.theta.requires_grad_()
    assert not weighting(samples, PHASE).requires_grad
    elsewhere = Samples(*(tensor.to("meta") for tensor in (samples.loss, samples.logits, samples.target)))
    assert weighting(elsewhere, PHASE).device.type == weighting.theta.device.type == "meta"


def test_any_function_is_a_weighting_whose_weights_are_constants(samples):
    two = torch.tensor(2.0, requires_grad=True)
    weights = checked_weights(lambda samples, phase: samples.loss * two + phase.stage, samples, PHASE)
    assert torch.equal(weights, samples.loss * 2)
    assert not weights.requires_grad
    assert checked_weights(lambda samples, phase: None, samples, PHASE) is None


@pytest.mark.parametrize("shape", [(), (5,), (6, 1), (1, 6)])
def test_weights_of_another_shape_are_named(samples, shape):
    message = f"weights of shape {re.escape(str(list(shape)))} for 6 samples; it must return .6.,"
    with pytest.raises(MisconfigurationException, match=f"The weighting <function.*{message}"):
        checked_weights(lambda samples, phase: torch.ones(shape), samples, PHASE)


# -- focal --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
def test_the_focal_loss_and_its_gradient_are_the_published_formula(gamma):
    generator = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(20, 5, generator=generator, dtype=torch.float64)).requires_grad_()
    target = torch.randint(5, (20,), generator=generator)
    ours = weighted(FocalWeighting(gamma), lambda: F.cross_entropy(logits, target))
    p = logits.exp() / logits.exp().sum(1, keepdim=True)
    published = sum(-((1 - row[t]) ** gamma) * row[t].log() for row, t in zip(p, target, strict=True)) / 20
    same_with_gradient(ours, published, logits)


@pytest.mark.parametrize("alpha", [None, 0.25])
def test_a_binary_focal_loss_is_torchvisions(alpha):
    generator = torch.Generator().manual_seed(1)
    logits = (3 * torch.randn(30, generator=generator)).requires_grad_()
    target = torch.randint(2, (30,), generator=generator).float()
    alphas = None if alpha is None else (1 - alpha, alpha)
    ours = weighted(FocalWeighting(2.0, alphas), lambda: F.binary_cross_entropy_with_logits(logits, target))
    theirs = sigmoid_focal_loss(logits, target, alpha=-1 if alpha is None else alpha, gamma=2.0, reduction="mean")
    same_with_gradient(ours, theirs, logits)


def test_a_gamma_of_zero_changes_no_bit():
    focal = fit(DropoutMLP, [WeightingCallback(FocalWeighting(0.0), num_stages=5)])
    assert_identical(focal.state_dict(), fit(DropoutMLP).state_dict())


@given(gamma=st.floats(0, 10), scale=st.floats(0, 1e4))
def test_the_focal_factor_is_a_share_and_its_slope_finite(gamma, scale):
    logits = (torch.tensor([[1.0, 0.0, -1.0], [0.0, 0.0, 0.0], [-1.0, 1.0, 0.0]]) * scale).requires_grad_()
    factor = focal_factor(logits, torch.tensor([0, 1, 2]), gamma)
    assert bool(((factor >= 0) & (factor <= 1)).all())
    assert bool(torch.autograd.grad(factor.sum(), logits)[0].isfinite().all())


# -- generalized cross-entropy ------------------------------------------------------------------------------------


@pytest.mark.parametrize("q", [0.0, 0.3, 0.7, 1.0])
def test_the_gradient_is_that_of_the_published_generalized_cross_entropy(q):
    generator = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(20, 5, generator=generator, dtype=torch.float64)).requires_grad_()
    target = torch.randint(5, (20,), generator=generator)
    weights = checked_weights(GCEWeighting(q), Samples(torch.zeros(20), logits, target), PHASE)
    ours = (weights * F.cross_entropy(logits, target, reduction="none")).mean()
    p = (logits.exp() / logits.exp().sum(1, keepdim=True)).gather(1, target[:, None])
    published = ((1 - p**q) / q if q else -p.log()).mean()
    torch.testing.assert_close(*(torch.autograd.grad(loss, logits)[0] for loss in (ours, published)))


@pytest.mark.parametrize("weighting", [FocalWeighting(), GCEWeighting()])
@pytest.mark.parametrize(
    ("loss", "logits", "target"),
    [
        (F.binary_cross_entropy_with_logits, torch.randn(4, 3), torch.ones(4, 3)),  # several labels
        (F.cross_entropy, torch.randn(4, 3, 5, 5), torch.randint(3, (4, 5, 5))),  # a label for each of many positions
        (F.cross_entropy, torch.randn(4, 3), torch.randn(4, 3).softmax(1)),  # a label spread over classes
    ],
)
def test_what_has_no_factor_for_each_sample_is_refused(weighting, loss, logits, target):
    message = "several labels, many positions, or a label spread over classes"
    with pytest.raises(MisconfigurationException, match=message):
        weighted(weighting, lambda: loss(logits.requires_grad_(), target))


@pytest.mark.parametrize(
    ("weighting", "message", "arguments"),
    [
        (FocalWeighting, "gamma must be", [{"gamma": -1}, {"gamma": math.nan}]),
        (FocalWeighting, "alpha must hold", [{"alpha": [-1.0]}, {"alpha": []}]),
        (GCEWeighting, "q must lie in", [{"q": -0.1}, {"q": 1.1}, {"q": math.nan}]),
        (ClassBalancedWeighting, "beta must be", [{"beta": -0.1}, {"beta": 1.0}, {"beta": math.nan}]),
        (ClassBalancedWeighting, "class_counts must be 'auto'", [{"class_counts": "count"}]),
        (ClassBalancedWeighting, r"those of the classes \[1\] are not", [{"class_counts": [3, 0, 2]}]),
        (ClassBalancedWeighting, "class_counts must be at least 1", [{"class_counts": []}]),
        (SelfPacedWeighting, "kind must be", [{"kind": "soft"}]),
        (SelfPacedWeighting, "age must be", [{"age": 0.0}, {"age": "old"}, {"age": math.nan}]),
        (SelfPacedWeighting, "growth must be", [{"growth": 0.9}]),
        (MentorNetWeighting, "percentile must be", [{"percentile": 0.0}]),
        (MentorNetWeighting, "softness must be", [{"softness": -1.0}]),
        (MentorNetWeighting, "rates of dropout and decay", [{"dropout": (1.0, 0.0)}, {"dropout": ()}, {"decay": 1.0}]),
        (MentorNetWeighting, "burn_in, soft_from", [{"burn_in": 1.5}, {"soft_from": 2.0}, {"dropout_until": -0.1}]),
        (MentorNetwork, "num_labels must be", [{"num_labels": 0}]),
    ],
)
def test_bad_arguments_are_named(weighting, message, arguments):
    for each in arguments:
        with pytest.raises(ValueError, match=message):
            weighting(**each)


@pytest.mark.parametrize("weighting", [FocalWeighting(alpha=[1, 2]), ClassBalancedWeighting(class_counts=[1, 2])])
def test_a_head_of_other_classes_is_named(weighting):
    weigh(weighting, [1.0], num_classes=2)
    with pytest.raises(MisconfigurationException, match=r"(alpha has|counts of) 2 .*, but the network has 4"):
        weigh(weighting, [1.0, 2.0])


# -- class-balanced -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9, 0.999, 0.9999])
@given(counts=st.lists(st.integers(1, 10_000), min_size=1, max_size=12))
def test_class_balanced_weights_are_the_published_formula(beta, counts):
    effective = np.array([(1 - beta**n) / (1 - beta) for n in counts])
    expected = 1 / effective / (1 / effective).sum() * len(counts)
    found = class_balanced_weights(torch.tensor(counts), beta)
    assert np.allclose(found.numpy(), expected, rtol=1e-6)
    assert float(found.sum()) == pytest.approx(len(counts))
    order = np.argsort(counts)
    assert bool((found[order].diff() <= 1e-9).all())  # the rarer, the heavier


class Named(data.Dataset):
    """Three samples, whose labels are an attribute."""

    def __init__(self, name, labels):
        setattr(self, name, labels)

    def __len__(self):
        return 3


DATA = Named("targets", [2, 0, 1])


@pytest.mark.parametrize(
    ("loader", "labels"),
    [
        (data.DataLoader(DATA, 2, shuffle=True), [2, 0, 1]),
        (StatefulDataLoader(DATA, 2, shuffle=True), [2, 0, 1]),
        (data.DataLoader(DATA, 2, sampler=data.DistributedSampler(DATA, 2, 0)), [2, 0, 1]),  # of all processes
        (data.DataLoader(DATA, 2, sampler=data.SubsetRandomSampler([2, 0])), [1, 2]),
        (data.DataLoader(DATA, 2, sampler=data.WeightedRandomSampler(torch.ones(3), 3)), None),
        (data.DataLoader(DATA, 2, sampler=DistributedSamplerWrapper(data.SubsetRandomSampler([2]), 2, 0)), None),
        (data.DataLoader(DATA, batch_sampler=[[0, 1], [2]]), None),
        (data.DataLoader(data.ChainDataset([DATA]), 2), None),
        ([data.DataLoader(DATA, 2)], None),
    ],
)
def test_the_labels_that_a_loader_draws(loader, labels):
    found = training_labels(loader)
    assert (found if found is None else found.tolist()) == labels


class Served(data.Dataset):
    """Inputs with the labels of ``targets``, as torchvision gives them, or as ``give`` makes them of a row's label."""

    def __init__(self, targets, target_transform=None, give=lambda label: label):
        self.targets, self.target_transform, self.give = list(targets), target_transform, give

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, row):
        label = self.targets[row]
        label = label if self.target_transform is None else self.target_transform(label)
        return torch.rand(5), self.give(label)


THREE = [0] * 6 + [1] * 3 + [2] * 3


def turned(label):
    return (label + 1) % 3


def soft(label):
    return torch.eye(3)[turned(label)]


@pytest.mark.parametrize(
    ("dataset", "counts"),
    [
        (Served(THREE, turned), [3, 6, 3]),
        (Served(THREE, soft), [3, 6, 3]),
        (Served(THREE, lambda label: min(float(label), 1.0)), [6, 6]),
        (data.Subset(Served(THREE, turned), range(8)), [0, 6, 2]),
        (data.ConcatDataset([Served(THREE), Served(THREE, turned)]), [9, 9, 6]),
        (data.ConcatDataset([Served(THREE), data.StackDataset(THREE)]), None),
        (Served(THREE, lambda label: label + 0.5), None),
    ],
)
def test_labels_after_a_target_transform(dataset, counts):
    labels = labels_of(dataset)
    assert (labels if labels is None else labels.bincount().tolist()) == counts


def collate(batch):
    x, y = data.default_collate(batch)
    return {"x": x, "more": {"y": turned(y)}}


def mixup(batch):
    x, y = data.default_collate(batch)
    return 0.3 * x + 0.7 * x.roll(1, 0), 0.3 * F.one_hot(y, 3) + 0.7 * F.one_hot(y.roll(1, 0), 3)


@pytest.mark.parametrize("drawn", [{"shuffle": True}, {"sampler": data.SubsetRandomSampler([3, 11, 7])}])
@pytest.mark.parametrize(
    ("dataset", "options", "given"),
    [
        (Served(THREE), {}, True),
        (Served(THREE, turned), {}, True),
        (Served(THREE, soft), {}, True),
        (Served(THREE, give=lambda label: {"label": torch.tensor([label])}), {}, True),
        (Served(THREE), {"collate_fn": mixup}, True),
        (Served(THREE, give=turned), {}, False),
        (Served(THREE, give=soft), {}, False),
        (Served(THREE, give=lambda label: 0 if label == 2 else label), {}, False),
        (Served(THREE), {"collate_fn": collate}, False),
    ],
)
def test_stored_labels_are_compared_with_the_batches(dataset, options, given, drawn):
    loader = data.DataLoader(dataset, 5, **options, **drawn)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert loader_gives(loader, training_labels(loader)) == given
    assert torch.equal(torch.get_rng_state(), before)


def test_labels_in_batches_that_are_objects_and_from_workers():
    def batch(samples):
        assert data.get_worker_info() is not None  # a file that the data set opens is not open in this process
        return types.SimpleNamespace(y=torch.tensor([label for _, label in samples]))

    loader = data.DataLoader(Served(THREE), 40, num_workers=2, collate_fn=batch)
    assert loader_gives(loader, training_labels(loader))


def fit_on(weighting, dataset):
    trainer = make_trainer([WeightingCallback(weighting, num_stages=2)], max_epochs=1)
    trainer.fit(DropoutMLP(), data.DataLoader(dataset, batch_size=10))


def test_the_training_labels_are_counted():
    x, y = make_data(60).tensors
    y = y.clone()
    y[::4] = -100  # samples without a label
    fit_on(weighting := ClassBalancedWeighting(0.9), data.TensorDataset(x, y))
    assert weighting.counts.tolist() == y[y >= 0].bincount().tolist()
    by_class = class_balanced_weights(weighting.counts, 0.9).float()
    assert torch.equal(weigh(weighting, [1.0, 1.0], target=[3, 0]), by_class[[3, 0]])


def test_labels_that_cannot_be_counted_are_not_guessed():
    x, y = make_data(60).tensors
    automatic = ClassBalancedWeighting()
    message = r"cannot count the training labels.*sampler of its own.*class_counts=\[...\]"
    with pytest.raises(MisconfigurationException, match=message):
        fit_on(ClassBalancedWeighting(), [*zip(x, y, strict=True)])
    with pytest.raises(MisconfigurationException, match=r"\(Served\) stores are not those .*class_counts=\[...\]"):
        fit_on(ClassBalancedWeighting(), Served(THREE, give=turned))
    with pytest.raises(MisconfigurationException, match=r"counts when a fit begins.* class_counts=\[...\]"):
        fit_on(lambda samples, phase: automatic(samples, phase), data.TensorDataset(x, y))
    with pytest.raises(ValueError, match=r"those of the classes \[3\] are not"):
        fit_on(ClassBalancedWeighting(), data.TensorDataset(x, y.clamp(max=2)))


# -- self-paced ---------------------------------------------------------------------------------------------------


@given(
    losses=st.lists(st.floats(0, 100), min_size=1, max_size=20),
    age=st.floats(0.01, 50),
    kind=st.sampled_from(["hard", "linear"]),
)
def test_self_paced_weights_minimise_their_objective(losses, age, kind):
    """Over a grid of weights: sum v l - age sum v, and for linear weights + age / 2 sum v^2 (Jiang et al.)."""
    found = self_paced_weights(torch.tensor(losses, dtype=torch.float64), age, kind).tolist()
    grid = np.linspace(0, 1, 101)
    for loss, weight in zip(losses, found, strict=True):
        own, *others = (v * loss - age * v + (kind == "linear") * age * v**2 / 2 for v in (weight, *grid))
        assert own <= min(others) + 1e-9 * max(1, loss, age)


def test_the_age_begins_at_the_median_and_grows():
    weighting, valid = SelfPacedWeighting(growth=2.0), torch.tensor([True, True, True, False, False])
    assert weigh(weighting, [1, 2, 3, 4, 5], 3).tolist() == [1, 1, 0, 0, 0]
    assert weigh(weighting, [1, 2, 3, 4, 5, 6, 7], 4).tolist() == [1, 1, 1, 1, 1, 0, 0]
    assert weigh(SelfPacedWeighting(), [1, 2, 3, 0, 0], valid=valid).tolist() == [1, 0, 0, 1, 1]


def test_losses_without_an_age_weigh_one_or_nothing():
    weighting = SelfPacedWeighting()
    assert weigh(weighting, [0.0, 0.0]).tolist() == [1, 1]
    assert weigh(weighting, [math.nan, math.inf]).tolist() == [0, 0]
    assert weighting.state_dict() == {"first": None}


# -- MentorNet ----------------------------------------------------------------------------------------------------


@given(
    batches=st.lists(st.lists(st.floats(0, 10, width=32), min_size=1, max_size=8), min_size=1, max_size=5),
    percentile=st.floats(0.05, 0.95),
    epoch=st.integers(0, 99),
)
def test_the_predefined_curriculum_is_the_published_one(batches, percentile, epoch):
    """The moving percentile and what the published mentor was taught for an epoch of 100, as a loop over numbers."""
    weighting, moving = MentorNetWeighting(percentile=percentile, dropout=(0.0, 0.0)), 0.0
    for losses in batches:
        moving = (moving + np.percentile(losses, 100 * percentile)) / 2
        found = weigh(weighting, losses, epoch, 100).tolist()
        assert float(weighting.threshold) == pytest.approx(moving, rel=1e-4, abs=1e-5)
        for loss, weight in zip(losses, found, strict=True):
            if epoch <= 18:
                assert weight == 1
            elif epoch >= 90:
                assert weight == pytest.approx(min(1.0, max(0.0, 1 - (loss - moving))), abs=1e-4)
            elif abs(loss - moving) > 1e-4:  # not at the edge, where rounding decides
                assert weight == (loss <= moving)


def test_burn_in_and_dropout_follow_the_training():
    weighting = MentorNetWeighting(burn_in=0.2, dropout=(0.5, 0.1), dropout_until=0.3)
    weighting.threshold = torch.tensor(-10.0)  # nothing would be learned from
    assert sorted(weigh(weighting, [1.0] * 100, 3).tolist()) == [0] * 50 + [1] * 50
    weighting.threshold = torch.tensor(100.0)
    assert weigh(weighting, [1.0] * 100, 5).sum() == 50
    assert weigh(weighting, [1.0] * 100, 6).sum() == 90
    assert weigh(MentorNetWeighting(dropout=(0.9, 0.0)), [1.0]).numel() == 1


def test_a_mentor_learns_which_labels_were_wrong():
    generator = torch.Generator().manual_seed(0)
    right, epoch = torch.rand(3000, generator=generator) < 0.6, torch.randint(100, (3000,), generator=generator)
    loss = torch.where(right, 1.0, 3.0) + 0.3 * torch.randn(3000, generator=generator)
    mentor = a_mentor()
    before = mentor.epoch.weight.clone()
    inputs = MentorInputs(loss, loss - 2.0, torch.zeros(3000, dtype=torch.long), epoch)
    assert mentor.learn(inputs, right, steps=500) < 0.1
    assert torch.equal(mentor.epoch.weight, before)
    weighting = MentorNetWeighting(mentor, dropout=(0.0, 0.0))
    weighting.threshold = torch.tensor(2.0)
    assert weigh(weighting, [0.9, 1.2, 2.9, 3.3], 10).tolist() == pytest.approx([1, 1, 0, 0], abs=0.2)


INPUTS = MentorInputs(*map(torch.tensor, ([0.5, 2.0], [-1.0, 0.7], [2, 0], [0, 120])))


def test_the_mentor_is_its_published_network():
    """One step of an LSTM in each direction on (loss, difference), written out; in full precision in any fit."""
    mentor, expected = a_mentor(), []
    for row in range(2):
        x = torch.stack([INPUTS.loss[row], INPUTS.difference[row]])
        states = []
        for suffix in ("", "_reverse"):
            weight, bias = (getattr(mentor.course, f"{kind}_ih_l0{suffix}") for kind in ("weight", "bias"))
            i, _, g, o = weight @ x + bias + getattr(mentor.course, f"bias_hh_l0{suffix}")
            states.append(o.sigmoid() * (i.sigmoid() * g.tanh()).tanh())
        parts = [mentor.label.weight[INPUTS.label[row]], mentor.epoch.weight[min(int(INPUTS.epoch[row]), 99)]]
        hidden, _, out = mentor.head
        features = (hidden.weight @ torch.cat([*parts, torch.stack(states)]) + hidden.bias).tanh()
        expected.append((out.weight @ features + out.bias).squeeze())
    torch.testing.assert_close(mentor(INPUTS), torch.stack(expected))
    with torch.autocast("cpu", torch.bfloat16):
        half = mentor(INPUTS)
    assert half.dtype == torch.float32
    assert torch.equal(half, mentor(INPUTS))


def test_losses_that_are_not_finite():
    weighting = MentorNetWeighting(dropout=(0.0, 0.0))
    for stage in (10, 19):  # hard and soft
        assert weigh(weighting, [math.nan, math.inf], stage).tolist() == [0, 0]
    assert weighting.threshold == 0
    assert predefined_curriculum(torch.tensor([math.nan, 0.0]), 0.0).tolist() == [0, 1]


def test_a_seed_decides_what_is_left_out():
    before = torch.get_rng_state()
    once, again, other = (weigh(MentorNetWeighting(seed=seed), [0.0] * 30) for seed in (1, 1, 2))
    assert torch.equal(once, again)
    assert not torch.equal(once, other)
    assert torch.equal(before, torch.get_rng_state())
