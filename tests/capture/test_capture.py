import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from law_lightning import Samples, weighted
from law_lightning.capture.loss_capture import LossCapture
from law_lightning.capture.losses import check_target

BCE = F.binary_cross_entropy_with_logits


@dataclass
class Case:
    """One way to call a loss: what it means, and how the user writes it."""

    name: str
    loss: Callable[..., Tensor] = F.cross_entropy
    shape: tuple[int, ...] = (5, 4)
    options: dict[str, Any] = field(default_factory=dict)
    target: str = "index"
    ignored: float = 0.0
    written: Callable[[Tensor, Tensor], Tensor] | None = None

    def call(self, z, y):
        return self.loss(z, y, **self.options) if self.written is None else self.written(z, y)

    @property
    def batched(self):
        return len(self.shape) > (0 if self.loss is BCE else 1)

    def draw(self, seed=0):
        generator = torch.Generator().manual_seed(seed)
        classes = 1 if self.batched else 0
        z = torch.randn(self.shape, generator=generator)
        if self.loss is F.nll_loss:
            z = z.log_softmax(classes)
        if self.target == "binary":
            y = (torch.rand(self.shape, generator=generator) > 0.5).float()
        elif self.target == "probability":
            y = torch.randn(self.shape, generator=generator).softmax(dim=classes)
        else:
            y = torch.randint(4, (*self.shape[:classes], *self.shape[classes + 1 :]), generator=generator)
            if self.ignored:
                mask = torch.rand(y.shape, generator=generator) < self.ignored
                y[mask] = self.options.get("ignore_index", -100)
                y.view(-1)[0] = 2  # at least one is left
        return z.requires_grad_(), y

    def rows(self, z, y):
        """The samples, each as a batch of one."""
        if not self.batched:
            return [(z.unsqueeze(0), y.unsqueeze(0))]
        return [(z[i : i + 1], y[i : i + 1]) for i in range(len(z))]

    def elements(self, z, y):
        """The naive loop: every sample's loss at every position, 0 where ignored."""
        rows = []
        for i, (zi, yi) in enumerate(self.rows(z, y)):
            options = dict(self.options)
            if self.target == "binary" and "weight" in options and options["weight"].shape[0] == len(z):
                options["weight"] = options["weight"][i : i + 1]
            rows.append(self.loss(zi, yi, reduction="none", **options).flatten())
        return rows

    def denominator(self, y):
        """What the mean reduction divides by."""
        if self.target != "index":
            return y.numel() // (4 if self.target == "probability" else 1)
        weight = self.options.get("weight", torch.ones(4))
        ignore = self.options.get("ignore_index", -100)
        return sum(float(weight[label]) for label in y.flatten().tolist() if label != ignore)

    def weighted(self, z, y, weights):
        rows = self.elements(z, y)
        return sum(w * row.sum() for w, row in zip(weights.tolist(), rows, strict=True)) / self.denominator(y)


W, POSITIVE = torch.tensor([0.5, 2.0, 1.0, 3.0]), torch.tensor([0.5, 1.0, 2.0, 4.0])
WEIGHT = {"weight": W}
EVERYTHING = {"weight": W, "label_smoothing": 0.2, "ignore_index": 1}
NLL = {"weight": W, "ignore_index": 1}
BOTH = {"weight": W, "pos_weight": POSITIVE}
IMAGES = (3, 4, 2, 5)
CASES = [
    Case("ce"),
    Case("ce keywords", written=lambda z, y: F.cross_entropy(input=z, target=y, reduction="mean")),
    Case("ce positional", options=EVERYTHING, ignored=0.4,
         written=lambda z, y: F.cross_entropy(z, y, W, None, 1, None, "mean", 0.2)),
    Case("ce module", options=EVERYTHING, ignored=0.4, written=nn.CrossEntropyLoss(**EVERYTHING)),
    Case("ce weight", options=WEIGHT),
    Case("ce smoothing", options={"label_smoothing": 0.1}),
    Case("ce ignored", ignored=0.5),
    Case("ce ignored, one kept", ignored=1.0),
    Case("ce probability", target="probability"),
    Case("ce probability weight smoothing", options=WEIGHT | {"label_smoothing": 0.2}, target="probability"),
    Case("ce unbatched", shape=(4,), options=WEIGHT),
    Case("ce unbatched probability", shape=(4,), target="probability"),
    Case("ce [B, C, L] ignored", shape=(4, 4, 3), ignored=0.7),
    Case("ce [B, C, H, W]", shape=IMAGES),
    Case("ce [B, C, H, W] everything", shape=IMAGES, options=EVERYTHING, ignored=0.5),
    Case("ce [B, C, H, W] probability", shape=IMAGES, options=WEIGHT, target="probability"),
    Case("nll", F.nll_loss),
    Case("nll positional", F.nll_loss, options=NLL, ignored=0.4,
         written=lambda z, y: F.nll_loss(z, y, W, None, 1, None, "mean")),
    Case("nll module", F.nll_loss, options=NLL, ignored=0.4, written=nn.NLLLoss(**NLL)),
    Case("nll unbatched", F.nll_loss, shape=(4,)),
    Case("nll [B, C, H, W]", F.nll_loss, shape=IMAGES, options=WEIGHT, ignored=0.3),
    Case("bce [B]", BCE, shape=(5,), target="binary"),
    Case("bce [B, 1]", BCE, shape=(5, 1), target="binary"),
    Case("bce [B, C]", BCE, target="binary"),
    Case("bce module", BCE, options=BOTH, target="binary", written=nn.BCEWithLogitsLoss(**BOTH)),
    Case("bce positional", BCE, options=BOTH, target="binary",
         written=lambda z, y: BCE(z, y, W, None, None, "mean", POSITIVE)),
    Case("bce sample weight", BCE, shape=(5,), options={"weight": torch.tensor([0.2, 1, 3, 0, 1.5])}, target="binary"),
    Case("bce unbatched", BCE, shape=(), target="binary"),
]  # fmt: skip
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def seen(call, z, y, weigh=lambda samples: None, **options):
    """The value, the gradient by z, and the capture."""
    with LossCapture(weigh, **options) as capture:
        value = call(z, y)
    (gradient,) = torch.autograd.grad(value, z)
    return value.detach(), gradient, capture


# -- the weighted loss -----------------------------------------------------------------------------------------


@every_case
@pytest.mark.parametrize("autocast", [False, True])
def test_weights_of_one_or_none_change_no_bit(case, autocast):
    z, y = case.draw()
    if autocast:
        z = z.detach().bfloat16().requires_grad_()  # what a network gives under autocast
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        plain = case.call(z, y)
        (gradient,) = torch.autograd.grad(plain, z)
        for weigh in (lambda s: torch.ones(len(s)), lambda s: None):
            value, captured, capture = seen(case.call, z, y, weigh)
            assert value.dtype == plain.dtype
            assert torch.equal(value, plain.detach())
            assert torch.equal(captured, gradient)
            assert capture.samples[0].loss.isfinite().all()
            assert len(capture.samples) == 1


@every_case
@pytest.mark.parametrize("seed", range(3))
def test_any_weights_equal_the_naive_loop(case, seed):
    z, y = case.draw(seed)
    weights = 2 * torch.rand(len(case.rows(z, y)), generator=torch.Generator().manual_seed(seed))
    found = seen(case.call, z, y, lambda s: weights)[:2]
    value = case.weighted(z, y, weights)
    torch.testing.assert_close(found, (value.detach(), *torch.autograd.grad(value, z)), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(case.weighted(z, y, torch.ones_like(weights)), case.call(z, y))  # the loop itself


# -- losses that are added up, or not reduced --------------------------------------------------------------------

KEEPS = ("sum", "none")


def squashed(value):
    """What a user may compute of a sum, or of losses sample by sample: here with a mask, and a focal factor."""
    if value.ndim == 0:
        return value / 7
    mask = (torch.arange(value.numel()).view(value.shape) % 3 > 0).float()
    return ((1 - (-value).exp()) ** 2 * value * mask).sum()


@every_case
@pytest.mark.parametrize("reduction", KEEPS)
def test_weights_of_one_change_no_bit_of_other_reductions(case, reduction):
    z, y = case.draw()
    plain = case.loss(z, y, reduction=reduction, **case.options)
    (gradient,) = torch.autograd.grad(squashed(plain), z)
    for capture in (LossCapture(lambda s: torch.ones(len(s))), LossCapture(lambda s: None), LossCapture()):
        with capture:
            value = case.loss(z, y, reduction=reduction, **case.options)
        assert capture.take_output(None) is None
        assert torch.equal(value, plain)
        assert torch.equal(torch.autograd.grad(squashed(value), z)[0], gradient)
        assert len(capture.samples) == 1


@every_case
@pytest.mark.parametrize("reduction", KEEPS)
@pytest.mark.parametrize("attached", [False, True])
def test_gradients_of_other_reductions_equal_the_naive_loop(case, reduction, attached):
    z, y = case.draw(1)
    weights = 2 * torch.rand(len(case.rows(z, y)), generator=torch.Generator().manual_seed(1))
    weights[0] = 0.0

    def weigh(samples):
        return weights * (0.1 * samples.logits).sum(1).exp() if attached else weights

    with LossCapture(weigh, attached=attached, differentiable=attached) as capture:
        value = case.loss(z, y, reduction=reduction, **case.options)
    capture.take_output(None)
    plain = case.loss(z, y, reduction=reduction, **case.options)
    assert torch.equal(value, plain)  # the values stay
    rows, factors = case.elements(z, y), weights
    if attached:
        shaped = capture.samples[0].logits
        factors = weights * (0.1 * shaped).sum(1).exp()
    # The gradient that reaches each loss, times its weight; where gradients flow through the weight, those too.
    (reached,) = torch.autograd.grad(squashed(plain), plain)
    upstream = reached.reshape(len(rows), -1) if plain.ndim else [reached] * len(rows)
    expected = sum((u * k * row).sum() for u, k, row in zip(upstream, factors, rows, strict=True))
    found = torch.autograd.grad(squashed(value), z)[0]
    torch.testing.assert_close(found, torch.autograd.grad(expected, z)[0], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("weight", [0.0, 2.0])
@pytest.mark.parametrize(
    ("options", "reduction"),
    [
        ({}, "none"),
        ({"size_average": False}, "sum"),
        ({"reduce": True}, "mean"),
        ({"reduce": False}, "none"),
        ("sum",) * 2,
    ],
    ids=str,
)
@pytest.mark.parametrize("loss", [F.cross_entropy, F.nll_loss, BCE])
@pytest.mark.filterwarnings("ignore:size_average and reduce")
def test_reductions_in_any_words(loss, options, reduction, weight):
    """Old and new ones; the one without a name comes after all other positional arguments."""
    z, y = torch.randn(5, 4, requires_grad=True), torch.tensor([0, 1, 2, 3, 0])
    y, between = (F.one_hot(y, 4).float(), (None,) * 3) if loss is BCE else (y, (None, None, -100, None))
    args, options = ((*between, "sum"), {}) if options == "sum" else ((), options or {"reduction": "none"})
    (gradient,) = torch.autograd.grad(loss(z, y, reduction=reduction).sum(), z)
    with LossCapture(lambda s: torch.full((5,), weight)) as capture:
        value = loss(z, y, *args, **options)
    capture.take_output(None)
    torch.testing.assert_close(torch.autograd.grad(value.sum(), z)[0], weight * gradient)
    assert value.shape == loss(z, y, reduction=reduction).shape


def test_losses_changed_in_place_and_gradients_of_gradients():
    z, y = CASES[0].draw()
    weights = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0])
    with LossCapture(lambda s: weights) as capture:
        losses = F.cross_entropy(z, y, reduction="none")
        (slope,) = torch.autograd.grad(losses.sum(), z, retain_graph=True)  # within the step: of the plain losses
        losses[1] = 0.0
        losses *= 3
    capture.take_output(None)
    torch.testing.assert_close(slope, torch.autograd.grad(per_sample(z, y).sum(), z)[0])
    kept = weights.clone()
    kept[1] = 0
    expected, found = (3 * kept * per_sample(z, y)).sum(), losses.sum()
    (first,), (wanted,) = (torch.autograd.grad(each, z, create_graph=True) for each in (found, expected))
    torch.testing.assert_close(first, wanted)
    penalties = [torch.autograd.grad(each.square().sum(), z)[0] for each in (first, wanted)]
    torch.testing.assert_close(*penalties)


@pytest.mark.parametrize("weigh", [None, lambda s: torch.ones(len(s))])
@pytest.mark.parametrize(
    "losses_of",
    [
        lambda z, y: F.cross_entropy(z, y, reduction="none"),
        lambda z, y: F.cross_entropy(z[0], y[0], reduction="none"),
        lambda z, y: BCE(z[:, 0], y.clamp_max(1).float(), reduction="none"),
        lambda z, y: weighted(z.square().sum(1), z, y),
    ],
)
def test_samples_keep_losses_that_the_step_changes_in_place(losses_of, weigh):
    with LossCapture(weigh, attached=True) as capture:
        losses = losses_of(*CASES[0].draw())
        plain = losses.detach().clone()
        losses *= 3
    assert torch.equal(capture.samples[0].loss, plain.reshape(-1))


def test_one_target_has_one_set_of_weights_whatever_the_reductions():
    z, y = CASES[0].draw()
    calls = []

    def weigh(samples):
        calls.append(samples)
        return by_loss(samples)

    with LossCapture(weigh) as capture:
        losses = F.cross_entropy(z, y, reduction="none")
        assert calls == []  # the dict may still say what the samples are
        loss = losses.mean() + F.cross_entropy(-z, y) + F.cross_entropy(2 * z, y, reduction="sum")
        assert len(calls) == 1  # by the mean loss, which nothing else can stand for
        other = F.cross_entropy(z, y.flip(0), reduction="none").mean()
    capture.take_output(loss)
    first, last = per_sample(-z, y), per_sample(z, y.flip(0))
    expected = naive_mean((first, per_sample(z, y)), (first, first), (last, last))
    expected = expected + 5 * naive_mean((first, per_sample(2 * z, y)))
    (found,), (wanted,) = (torch.autograd.grad(each, z) for each in (loss + other, expected))
    torch.testing.assert_close(found, wanted)
    assert len(calls) == len(capture.samples) == 2


# -- what is revealed ------------------------------------------------------------------------------------------


@every_case
@pytest.mark.parametrize("seed", range(3))
def test_samples_are_those_of_the_naive_loop(case, seed):
    z, y = case.draw(seed)
    plain, _, capture = seen(case.call, z, y)
    (samples,) = capture.samples
    ignore = case.options.get("ignore_index", -100)
    elements = case.elements(z, y)
    assert len(samples) == len(elements)
    for i, (zi, yi) in enumerate(case.rows(z.detach(), y)):
        loss, logits, target, correct, valid = naive_sample(case, zi[0], yi[0], elements[i].detach(), ignore)
        assert samples.loss[i].item() == pytest.approx(loss, abs=1e-6)
        torch.testing.assert_close(samples.logits[i], logits)
        assert samples.accuracy[i].item() == pytest.approx(correct)
        # A mask is made for class indices alone, and not where each sample has one that counts.
        masked = case.target == "index" and (y.ndim > 1 or bool((y == ignore).any()))
        assert (samples.valid is not None) == masked
        assert bool(samples.valid is None or samples.valid[i]) == valid
        if valid:
            assert samples.target[i].item() == target
    assert not samples.loss.requires_grad
    assert not samples.logits.requires_grad
    counted = slice(None) if samples.valid is None else samples.valid
    torch.testing.assert_close((samples.loss / samples.divisor)[counted].sum(), plain, atol=1e-6, rtol=1e-5)


@every_case
@pytest.mark.parametrize("reduction", KEEPS)
def test_samples_add_up_to_the_sum_or_to_a_mean_of_the_elements(case, reduction):
    z, y = case.draw()
    with LossCapture() as capture:
        value = case.loss(z, y, reduction=reduction, **case.options)
    (samples,) = capture.samples
    counted = slice(None) if samples.valid is None else samples.valid
    expected = value.detach().sum() if reduction == "sum" else value.detach().mean()
    torch.testing.assert_close((samples.loss / samples.divisor)[counted].sum(), expected, atol=1e-6, rtol=1e-5)


def naive_sample(case, z, y, elements, ignore):
    """Loss, logits, target, correct and valid of one sample, position by position."""
    if case.target == "binary":
        scores, labels = z.reshape(-1), y.reshape(-1)
        best = int(scores.argmax())
        if len(scores) == 1:
            right = float((scores[0] > 0) == (labels[0] > 0.5))
            return elements.mean().item(), torch.tensor([0.0, scores[0]]), int(labels[0]), right, True
        return elements.mean().item(), scores, int(np.argmax(labels.numpy())), labels[best].item(), True
    scores = z.reshape(4, -1)
    labels = y.reshape(4, -1).numpy().argmax(axis=0) if case.target == "probability" else y.reshape(-1).numpy()
    right, loss, counts = 0, 0.0, [0] * 4
    for position, label in enumerate(labels.tolist()):
        if case.target == "probability" or label != ignore:
            counts[label] += 1
            loss += elements[position].item()
            right += int(scores[:, position].argmax()) == label
    n = max(sum(counts), 1)  # of equally frequent labels the lowest
    return loss / n, scores.mean(dim=1), counts.index(max(counts)), right / n, sum(counts) > 0


def test_samples_count_and_know_their_classes():
    samples = Samples(torch.zeros(3), torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 2.0]]), torch.tensor([0, 0, 1]))
    assert len(samples) == samples.divisor == 3
    assert samples.num_classes == 2
    valid, loss = torch.tensor([False, True, True]), torch.tensor([7.0, 1.0, 2.0])
    assert replace(samples, loss=loss, valid=valid).mean_loss.item() == 1.5


# -- degenerate batches ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{}, {"label_smoothing": 0.1}, {"weight": W}, {"weight": W, "label_smoothing": 0.1}]
)
@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 2)])
def test_a_batch_without_labels_has_the_plain_gradient(options, shape):
    z, y = torch.randn(shape, requires_grad=True), torch.full((3, *shape[2:]), -100)
    value, gradient, capture = seen(lambda z, y: F.cross_entropy(z, y, **options), z, y, by_loss)
    assert math.isnan(value)
    assert torch.equal(gradient, torch.zeros_like(z))
    assert capture.samples[0].valid.tolist() == [False] * 3
    assert capture.samples[0].loss.tolist() == [0.0] * 3
    assert capture.samples[0].accuracy.tolist() == [0.0] * 3


def test_one_sample_and_one_class():
    z, y = torch.tensor([[1.0, 2.0]], requires_grad=True), torch.tensor([0])
    value, _, _ = seen(F.cross_entropy, z, y, lambda s: torch.tensor([0.25]))
    assert value.item() == pytest.approx(0.25 * (math.log(math.e + math.e**2) - 1))
    z, y = torch.randn(3, 1, requires_grad=True), torch.zeros(3, dtype=torch.int64)
    value, gradient, capture = seen(F.cross_entropy, z, y, by_loss)
    assert (value.item(), gradient.tolist(), capture.samples[0].num_classes) == (0.0, [[0.0]] * 3, 1)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stays_so(bad):
    z = torch.tensor([[bad, 0.0], [1.0, 2.0]], requires_grad=True)
    value, _, capture = seen(F.cross_entropy, z, torch.tensor([1, 0]), lambda s: torch.ones(2))
    assert not value.isfinite()
    assert not capture.samples[0].loss[0].isfinite()
    assert capture.samples[0].loss[1].item() == pytest.approx(1.3132617)


def test_labels_of_eight_bits():
    z, y = CASES[0].draw()
    found, expected = (seen(lambda z, y: F.cross_entropy(z, y, W), z, labels, by_loss) for labels in (y.byte(), y))
    assert all(map(torch.equal, found[:2], expected[:2]))
    assert found[2].samples[0].target.dtype == torch.int64


# -- several losses in one step --------------------------------------------------------------------------------


def by_loss(samples):
    """Weights that tell the losses apart."""
    return torch.tanh(samples.loss) * 1.5


def naive_mean(*terms):
    """The mean of several losses per sample, each with the weights that another (or itself) gives."""
    rows = [[1.5 * math.tanh(w) * loss for w, loss in zip(by.tolist(), losses, strict=True)] for by, losses in terms]
    return torch.stack([value for row in rows for value in row]).sum() / len(rows[0])


def per_sample(z, y):
    return F.cross_entropy(z, y, reduction="none")


#: A step with two losses, and which of them has weights of its own.
TWO_LOSSES = {
    "mixup": (lambda z, y: (z, y.flip(0)), True),
    "auxiliary head": (lambda z, y: (-z, y), False),
    "view": (lambda z, y: (-z, y.view(-1)), False),
    "detached": (lambda z, y: (-z, y.detach()), False),
    "slice of all": (lambda z, y: (-z, y[:]), False),
    "equal copy": (lambda z, y: (-z, y.clone()), True),
    "part": (lambda z, y: (-z[1:], y[1:]), True),
    "part from the start": (lambda z, y: (-z[:2], y[:2]), True),  # the same memory
}


@pytest.mark.parametrize("name", TWO_LOSSES)
def test_a_second_loss_shares_the_weights_of_the_same_target(name):
    z, y = CASES[0].draw()
    other, own = TWO_LOSSES[name]
    value, gradient, capture = seen(
        lambda z, y: 0.3 * F.cross_entropy(z, y) + 0.7 * F.cross_entropy(*other(z, y)), z, y, by_loss
    )
    first, second = per_sample(z, y), per_sample(*other(z, y))
    expected = 0.3 * naive_mean((first, first)) + 0.7 * naive_mean((second if own else first, second))
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, z)[0])
    targets = [y, other(z, y)[1]][: 1 + own]
    assert [samples.target.tolist() for samples in capture.samples] == [target.tolist() for target in targets]


def test_the_same_memory_seen_otherwise_is_another_target():
    z, y = torch.randn(3, 4, 3, requires_grad=True), torch.tensor([[0, 1, 2], [3, 0, 1], [2, 3, 0]])
    _, _, capture = seen(lambda z, y: F.cross_entropy(z, y) + F.cross_entropy(z, y.T), z, y, by_loss)
    assert len(capture.samples) == 2
    z, y = CASES[0].draw()  # as [B], and as a dense head's [1, B]
    _, _, capture = seen(
        lambda z, y: F.cross_entropy(z, y) + F.cross_entropy(z.T.unsqueeze(0), y.unsqueeze(0)), z, y, by_loss
    )
    assert [len(samples) for samples in capture.samples] == [5, 1]


# -- what is left alone ----------------------------------------------------------------------------------------


def test_other_terms_are_left_alone():
    z, y = CASES[0].draw()
    value, _, _ = seen(
        lambda z, y: F.cross_entropy(z, y) + 0.1 * z.square().mean() + F.mse_loss(z, torch.ones_like(z)),
        z, y, lambda s: torch.zeros(5),
    )  # fmt: skip
    expected = (0.1 * z.square().mean() + F.mse_loss(z, torch.ones_like(z))).item()
    assert value.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    "transformed",
    [
        lambda z, y: torch.vmap(F.cross_entropy)(z, y).mean(),
        lambda z, y: torch.vmap(BCE)(z, F.one_hot(y, z.shape[1]).float()).mean(),
        lambda z, y: torch.vmap(lambda label: F.cross_entropy(z[0], label))(y).mean(),
        lambda z, y: torch.func.grad(F.cross_entropy)(z, y).sum(),
        lambda z, y: torch.func.jvp(lambda z: F.nll_loss(z.log_softmax(1), y), (z,), (torch.ones_like(z),))[1],
    ],
)
def test_losses_within_transforms_are_left_alone(transformed, training):
    z, y = CASES[0].draw()
    with LossCapture(lambda s: torch.zeros(5), training=training, check_labels=True) as capture:
        assert torch.equal(transformed(z, y), transformed(z, y))
        assert capture.samples == []
        F.cross_entropy(z, y)  # beside them
    assert len(capture.samples) == 1


def test_losses_without_gradient_are_left_alone_in_training_and_seen_in_validation():
    z, y = CASES[0].draw()
    with LossCapture(lambda s: torch.zeros(5)) as capture:
        with torch.no_grad():
            logged = F.cross_entropy(z, y)
        teacher = F.cross_entropy(z.detach(), y)
    assert logged.item() == teacher.item() == F.cross_entropy(z, y).item()  # nor is anything seen outside the block
    assert capture.samples == []
    with torch.no_grad(), LossCapture(training=False) as capture:
        value = F.cross_entropy(z, y)
    assert value.item() == F.cross_entropy(z, y).item()
    torch.testing.assert_close(capture.samples[0].loss, per_sample(z, y).detach())


@pytest.mark.parametrize("used", [True, False])
@pytest.mark.parametrize("explicitly", [True, False])
def test_a_loss_that_is_used_says_so(used, explicitly):
    z, y = torch.randn(5, 4, requires_grad=True), torch.tensor([0, 1, 2, 3, 0])
    calls = []
    with LossCapture(on_use=calls.append) as capture:
        losses = per_sample(z, y)
        loss = losses.mean() if explicitly else F.cross_entropy(z, y)
    if explicitly:
        loss = capture.take_output({"loss": loss, "losses": losses, "logits": z, "target": y})["loss"]
    assert calls == []
    (loss + z.sum() if used else z.sum()).backward()
    assert len(calls) == used


# -- labels out of range ---------------------------------------------------------------------------------------

OUT_OF_RANGE = [
    (torch.randn(3, 4), torch.tensor([0, 7, 4]), r"\[4, 7\].*4 classes \(labels 0 to 3\)"),
    (torch.randn(3, 4), torch.tensor([0, -1, 2]), r"\[-1\].*4 classes"),
    (torch.randn(4), torch.tensor(9), r"\[9\].*4 classes"),
    (torch.randn(2, 3, 2), torch.tensor([[0, 3], [-100, 1]]), r"\[3\].*3 classes \(labels 0 to 2\)"),
]


@pytest.mark.parametrize(("logits", "target", "message"), OUT_OF_RANGE)
@pytest.mark.parametrize("check_labels", [False, True])
@pytest.mark.parametrize("loss", [F.cross_entropy, F.nll_loss])
def test_labels_out_of_range_are_named(logits, target, message, check_labels, loss):
    with LossCapture(check_labels=check_labels), pytest.raises(ValueError, match=f"(?s)Labels out of range.*{message}"):
        loss(logits.requires_grad_(), target)


def test_an_ignored_label_is_not_out_of_range():
    z = torch.randn(3, 4, requires_grad=True)
    with LossCapture(check_labels=True):
        F.cross_entropy(z, torch.tensor([0, 9, 3]), ignore_index=9)
        F.cross_entropy(z, torch.tensor([0, -100, 3]))
        F.cross_entropy(z, z.detach().softmax(dim=1))
        BCE(z, torch.full((3, 4), 5.0))
    with LossCapture(), pytest.raises(ValueError, match=r"holds \[7\],"):  # and is not named as one
        F.cross_entropy(z, torch.tensor([9, 7, 3]), ignore_index=9)


def test_at_most_ten_labels_are_named_with_three_remedies():
    message = r"\[2, 3, 4, 5, 6, 7, 8, 9, 10, 11\].*labels in the dataset.*last layer.*ignore_index"
    with pytest.raises(ValueError, match=message):
        check_target(torch.zeros(48, 2), torch.arange(2, 50))


def test_torchs_own_errors_pass():
    z = torch.randn(3, 4, requires_grad=True)
    with LossCapture(lambda s: torch.ones(3)), pytest.raises(ValueError, match=r"batch_size|batch size"):
        F.cross_entropy(z, torch.tensor([0, 1]))


# -- losses of one's own -------------------------------------------------------------------------------------


def smoothed(z, y):
    """As timm's LabelSmoothingCrossEntropy, before its mean."""
    log_p = z.log_softmax(dim=-1)
    return 0.9 * -log_p.gather(dim=-1, index=y.unsqueeze(1)).squeeze(1) + 0.1 * -log_p.mean(dim=-1)


def soft(z, y):
    """As timm's SoftTargetCrossEntropy, before its mean."""
    return torch.sum(-y * z.log_softmax(dim=-1), dim=-1)


def masked(z, y):
    return F.cross_entropy(z, y, reduction="none") * torch.tensor([1.0, 0, 2, 1, 1])


def margins(z, y):
    """Squared hinge: no logarithm in it."""
    return (1 + z - z.gather(1, y[:, None])).clamp_min(0).square().sum(1)


@pytest.mark.parametrize("losses", [smoothed, soft, masked, margins])
@pytest.mark.parametrize("attached", [False, True])
def test_own_losses_are_weighted(losses, attached):
    z, y = torch.randn(5, 4, requires_grad=True), torch.tensor([0, 1, 2, 3, 0])
    y = y if losses is not soft else 0.1 + 0.6 * F.one_hot(y, 4)
    weights = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0])

    def weigh(samples):
        return weights * (0.1 * samples.logits).sum(1).exp() if attached else weights

    given = losses(z, y)
    assert weighted(given, z, y) is given  # nothing without a callback
    with LossCapture(weigh, attached=attached, differentiable=attached) as capture:
        value = weighted(losses(z, y), z, y)
    capture.take_output(None)
    assert torch.equal(value, given)
    factor, reached = weigh(Samples(given, z, y)), 2 * given.detach() / 5  # the gradient that reaches each loss
    (found,) = torch.autograd.grad(value.square().mean(), z)
    (wanted,) = torch.autograd.grad((reached * factor * given).sum(), z, retain_graph=True)
    torch.testing.assert_close(found, wanted)
    (samples,) = capture.samples
    assert torch.equal(samples.loss, given)
    assert samples.target.tolist() == [0, 1, 2, 3, 0]
    assert samples.one_label == (losses is not soft)
    with LossCapture(lambda s: torch.ones(5)) as capture:
        value = weighted(losses(z, y), z, y)
    capture.take_output(None)
    assert torch.equal(*(torch.autograd.grad(each.square().mean(), z)[0] for each in (value, given)))


def test_own_losses_among_others():
    """What they are computed from is not weighted twice; a further loss on the same target shares their weights."""
    z, y = CASES[0].draw()
    with LossCapture(by_loss) as capture:
        inner = F.cross_entropy(z, y, reduction="none")
        further = F.cross_entropy(-z, y, reduction="none")
        own = weighted(weighted(inner.square() + 1, z, y), z, y)
        loss = own.mean() + further.mean()
    capture.take_output(loss)
    (samples,) = capture.samples
    losses = per_sample(z, y).square() + 1
    torch.testing.assert_close(samples.loss, losses.detach())
    expected = naive_mean((losses, losses), (losses, per_sample(-z, y)))
    torch.testing.assert_close(torch.autograd.grad(loss, z)[0], torch.autograd.grad(expected, z)[0])
    # Of another target, which was seen first: it is left out.
    with LossCapture(by_loss) as capture:
        inner = F.cross_entropy(z, F.one_hot(y, 4).float(), reduction="none")
        loss = weighted(inner, z, y).mean()
    capture.take_output(loss)
    assert len(capture.samples) == 1
    expected = naive_mean((per_sample(z, y), per_sample(z, y)))
    torch.testing.assert_close(torch.autograd.grad(loss, z)[0], torch.autograd.grad(expected, z)[0])


def test_own_losses_of_what_was_weighed_for_another_loss():
    """A mean loss needs its weights, and all before it get theirs, in the order in which every network gets them."""
    z, y = CASES[0].draw()
    calls = []
    with LossCapture(lambda s: calls.append(s) or by_loss(s)) as capture:
        inner = F.cross_entropy(z, y, reduction="none")
        loss = F.cross_entropy(z, y.flip(0))
        loss = loss + weighted(2 * inner, z, y).mean()
    capture.take_output(loss)
    assert [samples.target.tolist() for samples in capture.samples] == [y.tolist(), y.flip(0).tolist()]
    assert len(calls) == 2
    first, last = per_sample(z, y), per_sample(z, y.flip(0))
    expected = naive_mean((first, 2 * first), (last, last))
    torch.testing.assert_close(torch.autograd.grad(loss, z)[0], torch.autograd.grad(expected, z)[0])


def test_own_losses_of_weighted_means_are_refused():
    z, y = CASES[0].draw()
    with LossCapture(by_loss), pytest.raises(MisconfigurationException, match="call that with reduction='none'"):
        weighted(torch.stack([F.cross_entropy(row, label) for row, label in zip(z, y, strict=True)]), z, y)


@pytest.mark.parametrize(
    ("losses", "logits", "target"),
    [
        (torch.ones(()), torch.ones(5, 4), torch.ones(5).long()),
        (torch.ones(5, 1), torch.ones(5, 4), torch.ones(5).long()),
        (torch.ones(5), torch.ones(5), torch.ones(5).long()),
        (torch.ones(5), torch.ones(5), torch.ones(5)),
        (torch.ones(5), torch.ones(5, 4), torch.ones(5)),
        (torch.ones(5), torch.ones(5, 4), torch.ones(5, 4).long()),
        (torch.ones(4), torch.ones(5, 4), torch.ones(5).long()),
    ],
)
def test_own_losses_of_other_shapes_are_named(losses, logits, target):
    message = re.escape(f"got losses {list(losses.shape)}, logits {list(logits.shape)} and target")
    with LossCapture(lambda s: None), pytest.raises(ValueError, match=message):
        weighted(losses.requires_grad_(), logits, target)
    assert weighted(losses, logits, target) is losses


def test_own_losses_within_what_is_compiled():
    z, y = CASES[0].draw()

    def step(z):
        return weighted(smoothed(z, y), z, y).mean()

    (gradient,) = torch.autograd.grad(torch.compile(step, backend="eager", fullgraph=True)(z), z)
    with LossCapture(lambda s: torch.zeros(len(s))) as capture:
        value = torch.compile(step, backend="eager")(z)
    capture.take_output(value)
    assert torch.equal(torch.autograd.grad(value, z)[0], 0 * gradient)
    assert len(capture.samples) == 1


def test_labels_of_own_losses():
    z, y = torch.randn(3, 4, requires_grad=True), torch.tensor([0, -100, 4])
    with LossCapture(check_labels=True), pytest.raises(ValueError, match=r"\[4\].*4 classes"):
        weighted(z.sum(1), z, y)
    with torch.no_grad(), LossCapture(training=False) as capture:
        weighted(z.sum(1), z, y.clamp_max(3))
    assert capture.samples[0].valid.tolist() == [True, False, True]


# -- the explicit dict -----------------------------------------------------------------------------------------


def explicit(**changes):
    z = torch.tensor([[1.0, 2.0, 0.0], [0.5, -1.0, 3.0]], requires_grad=True)
    y = torch.tensor([1, 0])
    losses = (z - F.one_hot(y, 3)).square().sum(dim=1)
    output = {"loss": losses.mean() + 0.5 * z.abs().mean(), "losses": losses, "logits": z, "target": y, "extra": "kept"}
    return z, {name: value for name, value in (output | changes).items() if value is not None}


@pytest.mark.parametrize("weights", [torch.tensor([0.25, 1.5]), torch.ones(2)])
def test_the_dicts_loss_is_weighted(weights):
    z, output = explicit()
    capture = LossCapture(lambda s: weights)
    result = capture.take_output(output)
    expected = (weights * output["losses"]).mean() + 0.5 * z.abs().mean()
    plain, found, wanted = (
        (loss, *torch.autograd.grad(loss, z, retain_graph=True)) for loss in (output["loss"], result["loss"], expected)
    )
    torch.testing.assert_close(found, wanted)
    assert all(map(torch.equal, plain, found)) == bool((weights == 1).all())  # weights of one change no bit
    assert result["extra"] == "kept"
    (samples,) = capture.samples
    assert torch.equal(samples.loss, output["losses"].detach())
    assert torch.equal(samples.logits, z.detach())
    assert samples.target.tolist() == [1, 0]
    assert not samples.loss.requires_grad
    assert not samples.logits.requires_grad


@pytest.mark.parametrize("output", [None, torch.tensor(1.0), {"loss": torch.tensor(1.0), "logits": 3}])
def test_outputs_without_losses_are_left_alone(output):
    capture = LossCapture(lambda s: torch.ones(2))
    assert capture.take_output(output) is output
    assert capture.samples == []


@pytest.mark.parametrize("attached", [False, True])
def test_the_dict_says_what_losses_that_keep_their_values_are(attached):
    """Its losses are computed from them: each sample is weighted once, by the dict."""
    z, y = CASES[0].draw()
    calls = []

    def weigh(samples):
        calls.append(samples)
        return torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0])

    with LossCapture(weigh, attached=attached, differentiable=attached) as capture:
        losses = F.cross_entropy(z, y, reduction="none") + 0.5 * z.square().sum(1)
        output = {"loss": losses.mean(), "losses": losses, "logits": z, "target": y}
    found = capture.take_output(output)["loss"]
    expected = (weigh(None) * (per_sample(z, y) + 0.5 * z.square().sum(1))).mean()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, z)[0], torch.autograd.grad(expected, z)[0])
    assert len(capture.samples) == 1
    assert len(calls) == 2 + attached  # one is the test's own; weights with a graph cannot wait for the dict


def test_a_dict_is_left_alone_without_weights_and_after_a_loss_that_was_captured():
    _, output = explicit()
    assert (capture := LossCapture()).take_output(output) is output
    assert len(capture.samples) == 1
    with LossCapture(lambda s: torch.zeros(len(s))) as capture:
        F.cross_entropy(*CASES[0].draw())
    assert capture.take_output(output) is output
    assert len(capture.samples) == 1


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"logits": None}, "'logits'"),
        ({"target": None}, "'target'"),
        ({"loss": 1.5}, "'loss'"),
        ({"losses": [1.0, 2.0]}, "'losses'"),
        ({"logits": None, "target": None}, "'logits' and 'target'"),
    ],
)
def test_entries_missing_from_the_dict_are_named(changes, named):
    _, output = explicit(**changes)
    with pytest.raises(MisconfigurationException, match=rf"(?s)without a tensor {named}\. .*three ways.*\(2\)"):
        LossCapture().take_output(output)


@pytest.mark.parametrize(
    ("entry", "shape"), [("losses", (2, 1)), ("losses", (3,)), ("logits", (2,)), ("logits", (3, 3)), ("target", (2, 3))]
)
def test_shapes_that_do_not_fit_are_named(entry, shape):
    _, output = explicit(**{entry: torch.zeros(shape)})
    losses, logits, target = (re.escape(str(list(output[name].shape))) for name in ("losses", "logits", "target"))
    message = f"losses {losses}, logits {logits} and target {target}; they must be"
    with pytest.raises(MisconfigurationException, match=message):
        LossCapture().take_output(output)


def test_labels_in_the_dict():
    _, output = explicit(target=torch.tensor([1, 3]))
    with pytest.raises(ValueError, match=r"\[3\].*3 classes"):
        LossCapture(check_labels=True).take_output(output)
    _, output = explicit(target=torch.tensor([-100, 0], dtype=torch.int32))
    capture = LossCapture(check_labels=True)
    capture.take_output(output)
    (samples,) = capture.samples
    assert samples.valid.tolist() == [False, True]
    assert samples.target.tolist() == [0, 0]
    assert samples.target.dtype == torch.int64
