"""One warning for a module whose weights do not mean what one expects, none for an ordinary one."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader

import zoo
from law_lightning import FocalWeighting, WeightingCallback, weighted
from zoo import CLASSES, Base, assert_identical, differ, fit, loaders, make_data


def warnings_of(step, of=None, batch_size=16, weigh=lambda samples, phase: None, **trainer):
    """The warnings of a fit of a module with this training_step."""

    class Own(of or Base):
        training_step = step

    def data():
        return DataLoader(make_data(92, seed=1), batch_size), loaders()[1]

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(Own, [WeightingCallback(weigh, num_stages=1)], data=data, **({"max_epochs": 1} | trainer))
    return [str(each.message) for each in caught if "LAW" in str(each.message)]


def cross_entropy(module, batch, **options):
    return F.cross_entropy(module(batch[0]), batch[1], **options)


def dice(logits, y):
    p, hot = logits.softmax(1), F.one_hot(y, CLASSES).float()
    return 1 - 2 * (p * hot).sum() / (p + hot).sum()


# -- half a loss ---------------------------------------------------------------------------------------------------


def ce_and_dice(module, batch, batch_idx):
    logits = module(batch[0])
    return 0.1 * F.cross_entropy(logits, batch[1]) + dice(logits, batch[1])


def sum_and_margin(module, batch, batch_idx):
    """As ArcFace beside a classification head."""
    x, y = batch
    logits = module(x)
    margin = (10 * logits - 3 * F.one_hot(y, CLASSES)).log_softmax(1).gather(1, y.unsqueeze(1)).mean()
    return {"loss": F.cross_entropy(logits, y, reduction="sum") / len(x) - margin}


def regression_and_some_classes(module, batch, batch_idx):
    x, y = batch
    logits = module(x)
    losses = F.cross_entropy(logits, y, reduction="none")
    return F.mse_loss(logits, 5 * torch.ones_like(logits)) + 0.2 * (losses * (y == 0)).mean()


def dict_of_a_part(module, batch, batch_idx):
    logits = module(batch[0])
    losses = F.cross_entropy(logits, batch[1], reduction="none")
    return {"loss": losses.mean() + 9 * dice(logits, batch[1]), "losses": losses, "logits": logits, "target": batch[1]}


def a_negative_rest(module, batch, batch_idx):
    logits = module(batch[0])
    return F.cross_entropy(logits, batch[1]) - 5 * logits.square().mean().add(1).log() - 20


def losses_that_are_used_again(module, batch, batch_idx):
    """Beside ``weighted``, which replaces them."""
    logits = module(batch[0])
    losses = F.cross_entropy(logits, batch[1], reduction="none")
    return weighted(losses, logits, batch[1]).mean() + 3 * losses.mean()


PARTS = [ce_and_dice, sum_and_margin, regression_and_some_classes, dict_of_a_part, a_negative_rest]


@pytest.mark.parametrize("step", [*PARTS, losses_that_are_used_again])
@pytest.mark.parametrize("weight", [0.0, 1.5])
def test_less_than_half_a_loss_is_one_warning_with_the_share(step, weight):
    (message,) = warnings_of(step, weigh=lambda samples, phase: torch.full((len(samples),), weight))
    assert 0 < float(message.split("Only ")[1].split("%")[0]) < 50
    assert "training_step returned in its first step is weighted" in message
    assert "weighted(losses, logits, target)" in message


def test_the_share_is_that_of_the_values():
    def step(module, batch, batch_idx):
        loss = cross_entropy(module, batch)
        rest = module.net[1].weight.sum()
        return loss + 3 * loss.detach() * rest / rest.detach()

    for options in ({}, {"accumulate_grad_batches": 3}, {"plugins": zoo.half_precision}):
        (message,) = warnings_of(step, **options)
        assert "Only 25.0% of the loss" in message


def penalised(module, batch, batch_idx):
    return cross_entropy(module, batch) + 1e-2 * sum(p.square().sum() for p in module.parameters())


def gce_by_hand(module, batch, batch_idx):
    """Its derivative is far below its slope from zero: what it contributes is not linear."""
    return (1 - (-2 * cross_entropy(module, batch, reduction="none")).exp()).mean()


def adversarial(module, batch, batch_idx):
    x, y = batch
    x = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(-100 * F.cross_entropy(module(x), y, reduction="sum"), x)
    return penalised(module, (x - 0.1 * slope.sign(), y), batch_idx)


@pytest.mark.parametrize("module", [*zoo.MODULES, penalised, gce_by_hand, adversarial], ids=lambda m: m.__name__)
@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_ordinary_modules_get_no_warning(module, weight):
    def weigh(samples, phase):
        return torch.full((len(samples),), weight)

    step, of = (module.training_step, module) if isinstance(module, type) else (module, None)
    assert warnings_of(step, of, weigh=weigh) == []


# -- what is no sample, and what is no class -----------------------------------------------------------------------


@pytest.mark.parametrize(("batch_size", "loop"), [(1, False), (1, True), (16, True)])
def test_batches_of_one(batch_size, loop):
    def step(module, batch, batch_idx):
        logits, y = module(batch[0]), batch[1]
        if not loop:
            return F.cross_entropy(logits, y, reduction="sum")
        return torch.stack([F.cross_entropy(z, label) for z, label in zip(logits, y, strict=True)]).mean()

    (message,) = warnings_of(step, batch_size=batch_size)
    assert "every loss that LAW sees has one sample" in message
    assert "larger batch_size" in message


def test_a_last_batch_of_one_is_ordinary():
    assert warnings_of(lambda module, batch, batch_idx: cross_entropy(module, batch), batch_size=13) == []


def clip(module, batch, batch_idx):
    logits = module(batch[0]) @ module(batch[0]).T
    return F.cross_entropy(logits, torch.arange(len(logits)))


def two_views(module, batch, batch_idx):
    """As NT-Xent: both views in one batch, on the second of two processes."""
    z = module(torch.cat([batch[0], batch[0]]))
    n = len(batch[0])
    return F.cross_entropy(z @ torch.cat([z, z]).T, (torch.arange(n) + n).repeat(2))


def memory_bank(module, batch, batch_idx):
    """As MoCo: the counterpart is the first of many."""
    z = module(batch[0])
    logits = torch.cat([z.square().sum(1, keepdim=True), z @ torch.ones(CLASSES, 40)], dim=1)
    return weighted(F.cross_entropy(logits, y := torch.zeros(len(z)).long(), reduction="none"), logits, y).mean()


@pytest.mark.parametrize("step", [clip, two_views, memory_bank])
def test_contrastive_losses(step):
    (message,) = warnings_of(step)
    assert "makes up the labels of a loss" in message
    assert "There are no classes then" in message


@pytest.mark.parametrize("labels", [torch.arange(CLASSES), torch.zeros(CLASSES, dtype=torch.int32)])
def test_labels_that_the_data_have_are_no_contrastive_ones(labels):
    """Sorted data, in a batch that is a dict."""

    class Sorted(Base):
        def training_step(self, batch, batch_idx):
            return F.cross_entropy(self(batch["x"]), batch["y"].flatten().long())

    data = [{"x": x, "y": labels[i % CLASSES, None]} for i, (x, _) in enumerate(make_data(16))]
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*training_step")
        fit(
            Sorted,
            [WeightingCallback(lambda s, p: None, num_stages=1)],
            max_epochs=1,
            data=lambda: (DataLoader(data, 4),),
        )


def test_three_labels_may_be_in_order_by_chance():
    assert warnings_of(lambda m, b, i: F.cross_entropy(m(b[0]), torch.arange(len(b[0]))), batch_size=3) == []


def anchors(module, batch, batch_idx):
    return F.cross_entropy(module(batch[0]).repeat_interleave(9, 0), batch[1].repeat_interleave(9))


def positions(module, batch, batch_idx):
    logits = module(batch[0]).unsqueeze(1).expand(-1, 5, -1)
    return F.cross_entropy(
        logits.reshape(-1, CLASSES), batch[1].unsqueeze(1).expand(-1, 5).reshape(-1), reduction="sum"
    )


@pytest.mark.parametrize(("step", "rows"), [(anchors, 144), (positions, 80)])
def test_more_rows_than_samples(step, rows):
    (message,) = warnings_of(step)
    assert f"has {rows} rows, but the batch 16 samples" in message


@pytest.mark.parametrize(
    ("step", "match"),
    [
        (lambda m, b, i: F.mse_loss(m(b[0])[:, 0], b[1].float()), "calls mse_loss, a loss without classes"),
        (lambda m, b, i: F.huber_loss(m(b[0])[:, 0], b[1].float()), "calls huber_loss, a loss without"),
        (lambda m, b, i: nn.GaussianNLLLoss()(m(b[0]), m(b[0]), m(b[0]).exp()), "gaussian_nll_loss, a loss without"),
        (
            lambda m, b, i: checkpoint(F.cross_entropy, m(b[0]), b[1], use_reentrant=True),
            "cross_entropy where gradients are disabled.*use_reentrant=False",
        ),
    ],
)
def test_losses_that_cannot_be_weighted_are_named(step, match):
    with pytest.raises(MisconfigurationException, match=match + r".*three ways.*weighted\(losses, logits, target\)"):
        warnings_of(step)


# -- torch.utils.checkpoint ----------------------------------------------------------------------------------------


class Checkpointed(Base):
    """The loss is computed anew in the backward pass, as of large vocabularies."""

    reduction = "mean"

    def training_step(self, batch, batch_idx):
        loss = checkpoint(self.loss_of, self.net[:4](batch[0]), batch[1], use_reentrant=False)
        return loss.sum() / (len(batch[0]) if loss.ndim or self.reduction == "sum" else 1)

    def loss_of(self, h, y):
        return F.cross_entropy(self.net[4](h), y, reduction=self.reduction)


class CheckpointedSum(Checkpointed):
    reduction = "sum"


class CheckpointedNone(Checkpointed):
    reduction = "none"


class CheckpointedOwn(Checkpointed):
    def loss_of(self, h, y):
        logits = self.net[4](h)
        return weighted(-logits.log_softmax(1).gather(1, y.unsqueeze(1)).squeeze(1), logits, y)


@pytest.mark.parametrize("module", [Checkpointed, CheckpointedSum, CheckpointedNone, CheckpointedOwn])
def test_a_loss_in_a_checkpoint(module):
    class Unpacked(module):
        def training_step(self, batch, batch_idx):
            loss = self.loss_of(self.net[:4](batch[0]), batch[1])
            return loss.sum() / (len(batch[0]) if loss.ndim or self.reduction == "sum" else 1)

    for weigh in (lambda s, p: torch.ones(len(s)), lambda s, p: s.loss.tanh(), FocalWeighting(2.0)):
        callback = WeightingCallback(weigh, num_stages=2)
        found, wanted = (fit(each, [callback], max_epochs=1).state_dict() for each in (module, Unpacked))
        assert_identical(found, wanted)
    assert differ(found, fit(module, max_epochs=1).state_dict())
