import math

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from law_lightning.models import MLP, ImageClassifier


def make_loader(num_samples, batch_size):
    torch.manual_seed(0)
    data = TensorDataset(torch.rand(num_samples, 6), torch.arange(num_samples) % 3)
    return DataLoader(data, batch_size=batch_size)


def make_trainer(**kwargs):
    return L.Trainer(
        **{"accelerator": "cpu", "max_epochs": 5, "logger": False, "enable_checkpointing": False,
           "enable_progress_bar": False, "enable_model_summary": False} | kwargs
    )  # fmt: skip


class RateRecorder(L.Callback):
    def __init__(self):
        self.rates = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.rates.append(optimizer.param_groups[0]["lr"])


def fitted_rates(num_samples=32, batch_size=4, trainer_kwargs=None, **kwargs):
    recorder = RateRecorder()
    trainer = make_trainer(callbacks=[recorder], **(trainer_kwargs or {}))
    trainer.fit(ImageClassifier(MLP((6,), 3, hidden=(4,)), **kwargs), make_loader(num_samples, batch_size))
    return recorder.rates


def naive_rates(total, lr, percents, gamma, warmup=0):
    """The rate at every step, in whole percents of the run, which nothing rounds.

    Times 1 / (W + 1), 2 / (W + 1), ... in the W steps of the warm-up; it falls at the first step after a percentage.
    """
    rising = warmup * total // 100
    falls = [max(1, percent * total // 100) for percent in percents]
    factors = [min(1.0, (step + 1) / (rising + 1)) for step in range(total)]
    return [lr * factor * gamma ** sum(step >= fall for fall in falls) for step, factor in enumerate(factors)]


@pytest.mark.parametrize(
    ("trainer_kwargs", "total"),
    [
        ({"accumulate_grad_batches": 3, "max_epochs": 4}, 12),
        ({"max_steps": 20, "max_epochs": -1}, 20),
        ({"max_steps": 1}, 1),  # at the full rate
    ],
)
@pytest.mark.parametrize("warmup", [0, 20])
def test_schedule_counts_optimizer_steps(trainer_kwargs, total, warmup):
    options = {"lr": 0.1, "milestones": (0.25, 0.75), "gamma": 0.5, "warmup": warmup / 100}
    rates = fitted_rates(trainer_kwargs=trainer_kwargs, **options)
    assert rates == pytest.approx(naive_rates(total, 0.1, (25, 75), 0.5, warmup))


@pytest.mark.parametrize(
    ("num_samples", "warmup", "percents"),
    [
        (80, 0, (58, 29)),  # 100 steps; floats cannot hold 0.29 * 100
        (80, 29, (30, 90)),  # falls one step after it has risen
        (80, 2, (30, 60, 90)),  # ImageNet's
        (32, 0, ()),  # constant
        (32, 10, ()),  # 40 steps: 4 rise
        (32, 1, (50,)),  # too short for one step
        (32, 21, (22,)),  # both in step 8
        (4, 1, (2,)),  # 5 steps: neither reaches a step
    ],
)
def test_the_rate_at_every_step(num_samples, warmup, percents):
    milestones = [percent / 100 for percent in percents]
    rates = fitted_rates(num_samples, lr=0.2, warmup=warmup / 100, milestones=milestones, gamma=0.5)
    assert rates == pytest.approx(naive_rates(num_samples // 4 * 5, 0.2, percents, 0.5, warmup), rel=1e-12)


def test_endless_training_and_data_of_unknown_length_are_named():
    message = r"no end, .* max_epochs or max_steps, for data of unknown length max_steps, .*milestones=.* warmup=0"
    for kwargs in ({}, {"milestones": (), "warmup": 0.1}):
        with pytest.raises(ValueError, match=message):
            fitted_rates(trainer_kwargs={"max_epochs": -1}, **kwargs)

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
    trainer = make_trainer()
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
