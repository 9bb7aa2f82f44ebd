import math

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from torch.optim.lr_scheduler import MultiStepLR
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from law_lightning.data import DigitsDataModule
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
    """Notes the learning rate each optimizer step is made with."""

    def __init__(self):
        self.rates = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.rates.append(optimizer.param_groups[0]["lr"])


def fitted_rates(num_samples=32, batch_size=4, trainer_kwargs=None, **kwargs):
    recorder = RateRecorder()
    trainer = make_trainer(callbacks=[recorder], **(trainer_kwargs or {}))
    trainer.fit(ImageClassifier(MLP((6,), 3, hidden=(4,)), **kwargs), make_loader(num_samples, batch_size))
    return recorder.rates


def naive_rates(total, lr, percents, gamma):
    """One rate a step, in whole percents of the run: nothing that rounds."""
    return [lr * gamma ** sum(100 * step >= percent * total for percent in percents) for step in range(total)]


def test_rate_falls_at_stages_10_13_and_16_of_20():
    rates = fitted_rates(lr=0.2)  # 8 steps an epoch, 5 epochs: 2 steps a stage
    assert rates == pytest.approx(naive_rates(40, 0.2, (45, 60, 75), 0.1))
    assert [rates.index(r) for r in sorted(set(rates), reverse=True)] == [0, 18, 24, 30]


@pytest.mark.parametrize(
    ("trainer_kwargs", "total"),
    [
        ({"accumulate_grad_batches": 3, "max_epochs": 4}, 12),
        ({"max_steps": 20, "max_epochs": -1}, 20),
        ({"max_epochs": 3, "limit_train_batches": 5}, 15),
        ({"max_epochs": 1, "limit_train_batches": 100}, 8),
    ],
)
def test_schedule_counts_optimizer_steps(trainer_kwargs, total):
    rates = fitted_rates(trainer_kwargs=trainer_kwargs, lr=0.1, milestones=(0.25, 0.75), gamma=0.5)
    assert len(rates) == total
    # A rate falls at the first step at or after the fraction, rounded down to a step.
    steps = [int(total * 25 // 100), int(total * 75 // 100)]
    assert rates == pytest.approx([0.1 * 0.5 ** sum(i >= s for s in steps) for i in range(total)])


def test_milestones_that_floats_cannot_hold_lose_no_step():
    rates = fitted_rates(num_samples=400, trainer_kwargs={"max_epochs": 1}, lr=0.1, milestones=(0.58, 0.29))
    assert 0.29 * 100 < 29  # why it matters
    assert rates == pytest.approx(naive_rates(100, 0.1, (29, 58), 0.1))


def test_a_run_of_one_step_starts_at_the_full_rate():
    assert fitted_rates(trainer_kwargs={"max_steps": 1}, lr=0.1) == [0.1]


def test_without_milestones_the_rate_is_constant():
    assert set(fitted_rates(lr=0.3, milestones=())) == {0.3}


@pytest.mark.parametrize("kwargs", [{}, {"milestones": (), "warmup": 0.1}])
def test_endless_training_is_named(kwargs):
    with pytest.raises(ValueError, match=r"no end, .* max_epochs or max_steps, .*milestones=.* warmup=0"):
        fitted_rates(trainer_kwargs={"max_epochs": -1}, **kwargs)


def test_data_of_unknown_length_is_named():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter([(torch.rand(6), 0)] * 8)

    loader = DataLoader(Stream(), batch_size=4)
    module = ImageClassifier(MLP((6,), 3), warmup=0.1)
    with pytest.raises(ValueError, match=r"for data of unknown length max_steps"):
        make_trainer().fit(module, loader)
    make_trainer(max_steps=4).fit(module, loader)


def warm_rates(total, lr, percent, percents, gamma):
    """The rate at every step, in whole percents: times 1 / (W + 1), 2 / (W + 1), ... in the first W steps."""
    rising = percent * total // 100
    falls = [max(1, percent * total // 100) for percent in percents]
    factors = [min(1.0, (step + 1) / (rising + 1)) for step in range(total)]
    return [lr * factor * gamma ** sum(step >= fall for fall in falls) for step, factor in enumerate(factors)]


@pytest.mark.parametrize(
    ("num_samples", "percent", "percents"),
    [
        (80, 10, (45, 60, 75)),  # 100 steps: 10 rise
        (80, 29, (58,)),  # floats cannot hold it
        (80, 29, (30, 90)),  # falls one step after it has risen
        (80, 2, (30, 60, 90)),  # ImageNet's
        (32, 10, ()),  # 40 steps: 4 rise
        (32, 3, (50,)),  # one step rises
        (32, 1, (50,)),  # too short for one step
        (32, 99, ()),
        (32, 21, (22,)),  # both in step 8
        (4, 1, (2,)),  # 5 steps: neither reaches a step
    ],
)
def test_warmup_rises_linearly_at_every_step(num_samples, percent, percents):
    rates = fitted_rates(
        num_samples,
        lr=0.2,
        warmup=percent / 100,
        milestones=[percent / 100 for percent in percents],
        gamma=0.5,
    )
    total = num_samples // 4 * 5
    assert len(rates) == total
    assert rates == pytest.approx(warm_rates(total, 0.2, percent, percents, 0.5), rel=1e-12)


def test_warmup_counts_optimizer_steps():
    rates = fitted_rates(trainer_kwargs={"accumulate_grad_batches": 4, "max_epochs": 10}, warmup=0.25)  # 20 steps
    assert rates == pytest.approx(warm_rates(20, 0.1, 25, (45, 60, 75), 0.1), rel=1e-12)


def test_a_resumed_run_goes_on_where_the_schedule_was(tmp_path):
    loader, path = make_loader(32, 4), tmp_path / "first.ckpt"
    expected = fitted_rates(lr=0.2, warmup=0.3)  # 12 steps rise; an epoch has 8

    class StopEarly(L.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            trainer.save_checkpoint(path)
            trainer.should_stop = True

    make_trainer(callbacks=[StopEarly()]).fit(ImageClassifier(MLP((6,), 3, hidden=(4,)), lr=0.2, warmup=0.3), loader)
    recorder = RateRecorder()
    resumed = ImageClassifier(MLP((6,), 3, hidden=(4,)), lr=0.2, warmup=0.3)
    make_trainer(callbacks=[recorder]).fit(resumed, loader, ckpt_path=path)
    assert recorder.rates == expected[8:]


def test_without_warmup_the_schedule_is_torch_s_own():
    module = ImageClassifier(MLP((6,), 3), warmup=0.0)
    trainer = make_trainer()
    trainer.fit(module, make_loader(32, 4))
    (config,) = trainer.lr_scheduler_configs
    assert type(config.scheduler) is MultiStepLR
    assert config.interval == "step"


def test_optimizer_is_the_papers():
    module = ImageClassifier(MLP((6,), 3), milestones=())
    optimizer = module.configure_optimizers()
    assert isinstance(optimizer, torch.optim.SGD)
    group = optimizer.param_groups[0]
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.1, 0.9, 2e-5)
    assert not group["nesterov"]
    assert len(group["params"]) == len(list(module.network.parameters()))


def test_training_is_a_plain_loop_of_sgd():
    torch.manual_seed(3)
    module = ImageClassifier(MLP((6,), 3, hidden=(4,)), lr=0.05)
    plain = MLP((6,), 3, hidden=(4,))
    plain.load_state_dict(module.network.state_dict())
    loader = make_loader(32, 4)
    make_trainer().fit(module, loader)
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
    expected = {
        "loss": F.cross_entropy(logits, target).item(),
        "acc": (logits.argmax(1) == target).double().mean().item(),
    }
    trainer = make_trainer(enable_progress_bar=False)
    for split, run in (("val", trainer.validate), ("test", trainer.test)):
        (metrics,) = run(module, loader, verbose=False)
        assert metrics == pytest.approx({f"{split}/{k}": v for k, v in expected.items()}, rel=1e-5)


def test_digits_are_learnt_and_logged():
    torch.manual_seed(0)
    data = DigitsDataModule()
    module = ImageClassifier(MLP((1, 8, 8), 10, hidden=(64,)))
    trainer = make_trainer(max_epochs=8)
    trainer.fit(module, datamodule=data)
    assert {"train/loss", "val/loss", "val/acc"} <= set(trainer.callback_metrics)
    assert trainer.callback_metrics["val/acc"] > 0.88
    (metrics,) = trainer.test(module, datamodule=data, verbose=False)
    assert metrics["test/acc"] > 0.88


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"lr": 0.0}, "lr is 0.0"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"momentum": 1.0}, "momentum is 1.0"),
        ({"weight_decay": -1e-3}, "weight_decay is -0.001"),
        ({"milestones": (0.5, 1.0)}, r"milestones is \(0.5, 1.0\), but each must lie in \(0, 1\)"),
        ({"milestones": (0.0,)}, "milestones is"),
        ({"gamma": 0.0}, "gamma is 0.0"),
        ({"gamma": 1.5}, "gamma is 1.5"),
        ({"warmup": -0.1}, r"warmup is -0.1, but it must lie in \[0, 1\)"),
        ({"warmup": 1.0, "milestones": ()}, "warmup is 1.0"),
        ({"warmup": math.nan}, "warmup is nan"),
        ({"warmup": 0.5}, "warmup is 0.5, but it must be below the first milestone, 0.45"),
        ({"warmup": 0.3, "milestones": (0.9, 0.2)}, "first milestone, 0.2"),
    ],
)
def test_bad_arguments_are_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        ImageClassifier(MLP((6,), 3), **kwargs)
