import math
from statistics import fmean

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from law_lightning import WeightingCallback
from law_lightning.models import MLP, ImageClassifier
from zoo import Rates, make_trainer


def make_loader(num_samples, batch_size):
    torch.manual_seed(0)
    data = TensorDataset(torch.rand(num_samples, 6), torch.arange(num_samples) % 3)
    return DataLoader(data, batch_size=batch_size)


def fitted_rates(num_samples, options, **kwargs):
    trainer = make_trainer([rates := Rates()], **{"max_epochs": 5} | options)
    trainer.fit(ImageClassifier(MLP((6,), 3, hidden=(4,)), **kwargs), make_loader(num_samples, 4))
    return rates.noted


def naive_rates(total, lr, percents, gamma, warmup=0):
    """The rate at every step, in whole percents of the run, which nothing rounds.

    Times 1 / (W + 1), 2 / (W + 1), ... in the W steps of the warm-up; it falls at the first step after a percentage.
    """
    rising = warmup * total // 100
    falls = [max(1, percent * total // 100) for percent in percents]
    factors = [min(1.0, (step + 1) / (rising + 1)) for step in range(total)]
    return [lr * factor * gamma ** sum(step >= fall for fall in falls) for step, factor in enumerate(factors)]


@pytest.mark.parametrize(
    ("num_samples", "options", "steps", "warmup", "percents"),
    [
        (80, {}, 100, 0, (58, 29)),  # floats cannot hold 0.29 * 100
        (80, {}, 100, 29, (30, 90)),  # falls one step after it has risen
        (80, {}, 100, 2, (30, 60, 90)),  # ImageNet's
        (32, {}, 40, 0, ()),  # constant
        (32, {}, 40, 10, ()),  # 4 rise
        (32, {}, 40, 1, (50,)),  # too short for one step
        (32, {}, 40, 21, (22,)),  # both in step 8
        (4, {}, 5, 1, (2,)),  # neither reaches a step
        (32, {"accumulate_grad_batches": 3, "max_epochs": 4}, 12, 0, (25, 75)),
        (32, {"accumulate_grad_batches": 3, "max_epochs": 4}, 12, 20, (25, 75)),
        (32, {"max_steps": 20, "max_epochs": -1}, 20, 0, (25, 75)),
        (32, {"max_steps": 20, "max_epochs": -1}, 20, 20, (25, 75)),
        (32, {"max_steps": 1}, 1, 20, (25, 75)),  # at the full rate
    ],
)
def test_the_rate_at_every_step_of_the_optimizer(num_samples, options, steps, warmup, percents):
    milestones = [percent / 100 for percent in percents]
    rates = fitted_rates(num_samples, options, lr=0.2, warmup=warmup / 100, milestones=milestones, gamma=0.5)
    assert rates == pytest.approx(naive_rates(steps, 0.2, percents, 0.5, warmup), rel=1e-12)


def test_endless_training_and_data_of_unknown_length_are_named():
    message = r"no end, .* max_epochs or max_steps, for data of unknown length max_steps, .*milestones=.* warmup=0"
    for kwargs in ({}, {"milestones": (), "warmup": 0.1}):
        with pytest.raises(ValueError, match=message):
            fitted_rates(32, {"max_epochs": -1}, **kwargs)

    class Stream(IterableDataset):
        def __iter__(self):
            return iter([(torch.rand(6), 0)] * 8)

    loader = DataLoader(Stream(), batch_size=4)
    module = ImageClassifier(MLP((6,), 3), warmup=0.1)
    with pytest.raises(ValueError, match=message):
        make_trainer().fit(module, loader)
    make_trainer(max_steps=4).fit(module, loader)


def test_training_is_a_plain_loop_of_sgd():
    torch.manual_seed(3)
    module = ImageClassifier(MLP((6,), 3, hidden=(4,)), lr=0.05)
    plain = MLP((6,), 3, hidden=(4,))
    plain.load_state_dict(module.network.state_dict())
    loader = make_loader(32, 4)
    trainer = make_trainer(max_epochs=5)
    trainer.fit(module, loader)
    assert "train/loss" in trainer.callback_metrics
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.05, momentum=0.9, weight_decay=2e-5)
    rates = iter(naive_rates(40, 0.05, (45, 60, 75), 0.1))
    for _ in range(5):
        for x, target in loader:
            optimizer.param_groups[0]["lr"] = next(rates)
            optimizer.zero_grad()
            F.cross_entropy(plain(x), target).backward()
            optimizer.step()
    for ours, theirs in zip(module.network.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_logged_training_loss_is_unweighted():
    class Noted(ImageClassifier):
        def log(self, name, value, **kwargs):
            found.append((value.item(), value.requires_grad))

    found = []
    callback = WeightingCallback(lambda samples, phase: torch.full_like(samples.loss, 0.25), num_stages=1)
    make_trainer([callback], max_epochs=1).fit(Noted(MLP((6,), 3)), make_loader(8, 4))
    (record,) = callback.history
    assert record["loss"] == pytest.approx(fmean(value for value, _ in found))
    assert callback.scalars(record)["law/weighted_loss"] == pytest.approx(0.25 * record["loss"])
    assert not any(graph for _, graph in found)


def test_metrics_are_means_over_samples():
    torch.manual_seed(0)
    module = ImageClassifier(MLP((6,), 3))
    loader = make_loader(20, 8)  # the last batch is smaller
    x, target = loader.dataset.tensors
    with torch.no_grad():
        logits = module.eval()(x)
    expected = {"loss": F.cross_entropy(logits, target).item(), "acc": (logits.argmax(1) == target).sum().item() / 20}
    trainer = make_trainer()
    for split, run in (("val", trainer.validate), ("test", trainer.test)):
        (metrics,) = run(module, loader, verbose=False)
        assert metrics == pytest.approx({f"{split}/{k}": v for k, v in expected.items()}, rel=1e-5)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"lr": 0.0}, "lr is 0.0"),
        ({"milestones": (0.5, 1.0)}, r"milestones is \(0.5, 1.0\), but each must lie in \(0, 1\)"),
        ({"gamma": 0.0}, "gamma 0.0"),
        ({"momentum": 1.0}, r"momentum is 1.0 .* momentum must lie in \[0, 1\)"),
        ({"momentum": math.nan}, "momentum is nan"),
        ({"weight_decay": -0.1}, "weight_decay -0.1, .* weight_decay be at least 0"),
        ({"warmup": -0.1}, r"warmup is -0.1, but it must be at least 0"),
        ({"warmup": math.nan}, "warmup is nan"),
        ({"warmup": 0.5}, "warmup is 0.5, but it must be at least 0 and below 0.45, the first milestone"),
        ({"warmup": 0.3, "milestones": (0.9, 0.2)}, "below 0.2, the first milestone"),
    ],
)
def test_bad_arguments_are_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        ImageClassifier(MLP((6,), 3), **kwargs)
