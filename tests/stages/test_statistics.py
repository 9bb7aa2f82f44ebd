import math
import random
from types import SimpleNamespace

import pytest
import torch

from law_lightning import Samples
from law_lightning.stages.statistics import StageStatistics

CPU = torch.device("cpu")


class OneProcess:
    """A Trainer whose strategy has nothing to reduce, and notes how it was asked to."""

    def __init__(self):
        self.asked = []
        self.strategy = SimpleNamespace(reduce=self.reduce)

    def reduce(self, value, reduce_op):
        self.asked.append(reduce_op)
        return value


def summary(statistics):
    return statistics.summary(OneProcess())


def batch(seed, count=5, classes=4, **changes):
    draw = torch.Generator().manual_seed(seed)
    parts = {
        "loss": torch.rand(count, generator=draw),
        "logits": torch.randn(count, classes, generator=draw),
        "target": torch.randint(classes - 1, (count,), generator=draw),  # the last class is never seen
    }
    return Samples(**(parts | changes)), 2 * torch.rand(count, generator=draw)


def naive(batches):
    """The same, sample by sample."""
    losses, weighted, right, weights, classes = [], [], [], [], {}
    for samples, given in batches:
        for i in range(len(samples)):
            if samples.valid is not None and not samples.valid[i]:
                continue
            weight = 1.0 if given is None else given[i].item()
            weights.append(weight)
            right.append(samples.accuracy[i].item())
            classes.setdefault(samples.target[i].item(), []).append(weight)
            if math.isfinite(samples.loss[i].item()):
                losses.append(samples.loss[i].item())
                weighted.append(weight * losses[-1])
    mean = sum(weights) / len(weights)
    return {
        "loss": sum(losses) / len(losses),
        "weighted_loss": sum(weighted) / len(weighted),
        "accuracy": sum(right) / len(right),
        "loss_gap": None,
        "weight_mean": mean,
        "weight_std": math.sqrt(sum((w - mean) ** 2 for w in weights) / len(weights)),
        "weight_min": min(weights),
        "weight_max": max(weights),
        "weight_per_class": [
            sum(classes[c]) / len(classes[c]) if c in classes else None for c in range(batches[0][0].num_classes)
        ],
    }


def check(got, expected):
    assert got.keys() == expected.keys()
    per_class = zip(got.pop("weight_per_class"), expected.pop("weight_per_class"), strict=True)
    for mine, theirs in [*per_class, (got.pop("loss_gap"), expected.pop("loss_gap"))]:
        assert mine == (None if theirs is None else pytest.approx(theirs, rel=1e-6))
    assert got == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("count", [1, 3, 63, 64, 65, 150])
def test_a_stage_is_summed_up(count):
    statistics, batches = StageStatistics(), [batch(i, count=1 + i % 4) for i in range(count)]
    for each in batches:
        statistics.add(*each)
    check(summary(statistics), naive(batches))


def test_samples_without_a_label_take_no_part():
    valid = torch.tensor([True, False, True, False, True])
    batches = [batch(0, valid=valid), batch(1), batch(2, valid=~valid, correct=torch.ones(5))]
    statistics = StageStatistics()
    for each in batches:
        statistics.add(*each)
    check(summary(statistics), naive(batches))


def test_losses_that_are_not_finite_take_no_part():
    loss = torch.tensor([1.0, math.nan, 2.0, math.inf, 3.0])
    samples, weights = batch(0, loss=loss)
    statistics = StageStatistics()
    statistics.add(samples, weights)
    check(summary(statistics), naive([(samples, weights)]) | {"loss": 2.0})


def test_no_weights_count_as_ones():
    samples, _ = batch(3)
    statistics = StageStatistics()
    statistics.add(samples, None)
    found = summary(statistics)
    names = ("weight_mean", "weight_std", "weight_min", "weight_max")
    assert [found[name] for name in names] == [1.0, 0.0, 1.0, 1.0]
    assert found["weight_per_class"] == [1.0, 1.0, 1.0, None]


def test_accuracy_in_parts():
    correct = torch.tensor([0.5, 0.25, 1.0, 0.0, 0.0])
    statistics = StageStatistics()
    statistics.add(*batch(0, correct=correct))
    assert summary(statistics)["accuracy"] == pytest.approx(0.35)


def test_a_batch_of_one():
    statistics = StageStatistics()
    statistics.add(Samples(torch.tensor([0.5]), torch.tensor([[1.0, 0.0]]), torch.tensor([0])), torch.tensor([1.5]))
    assert summary(statistics) == {
        "loss": 0.5, "weighted_loss": 0.75, "accuracy": 1.0, "loss_gap": None, "weight_mean": 1.5, "weight_std": 0.0,
        "weight_min": 1.5, "weight_max": 1.5, "weight_per_class": [1.5, None],
    }  # fmt: skip


@pytest.mark.parametrize("added", [False, True])
def test_a_stage_without_labels_has_a_defined_summary(added):
    statistics = StageStatistics()
    if added:
        statistics.add(*batch(0, valid=torch.zeros(5, dtype=torch.bool)))
    found = summary(statistics)
    assert all(math.isnan(found.pop(name)) for name in ("loss", "weighted_loss", "accuracy"))
    assert found == {
        "loss_gap": None, "weight_mean": 1.0, "weight_std": 0.0,
        "weight_min": 1.0, "weight_max": 1.0, "weight_per_class": [None] * 4 if added else [],
    }  # fmt: skip


def test_low_precision_is_summed_in_full():
    samples, weights = batch(0, count=400)
    samples = Samples(samples.loss.bfloat16(), samples.logits.bfloat16(), samples.target)
    statistics = StageStatistics()
    statistics.add(samples, weights.bfloat16())
    check(summary(statistics), naive([(samples, weights.bfloat16())]))


@pytest.mark.parametrize("count", [1, 64, 100])
def test_the_gap_is_the_mean_over_steps(count):
    draw = random.Random(0)
    gaps = [draw.uniform(-1, 1) for _ in range(count)]
    statistics = StageStatistics()
    for gap in [*gaps, math.nan, math.inf]:
        statistics.add_gap(torch.tensor(gap))
    statistics.add(*batch(0))
    assert summary(statistics)["loss_gap"] == pytest.approx(sum(gaps) / count, abs=1e-6)


def test_gaps_add_up_beyond_single_precision():
    statistics = StageStatistics()
    for gap in (3e38, 3e38, 3e38, float("inf"), float("nan")):
        statistics.add_gap(torch.tensor(gap))
    assert summary(statistics)["loss_gap"] == pytest.approx(3e38)


def test_a_summary_starts_anew():
    statistics = StageStatistics()
    statistics.add(*batch(0))
    statistics.add_gap(torch.tensor(2.0))
    summary(statistics)
    statistics.add(*batch(1))
    check(summary(statistics), naive([batch(1)]))


def test_what_is_kept_is_bounded(monkeypatch):
    statistics = StageStatistics()
    for i in range(130):
        statistics.add(*batch(i))
        statistics.add_gap(torch.tensor(0.0))
        assert len(statistics._pending) < 64
        assert len(statistics._gaps) < 64


def test_processes_add_up():
    """A second process with the same samples: sums double, extremes stay."""
    trainer = OneProcess()
    trainer.strategy.reduce = lambda value, reduce_op: {"sum": 2 * value, "max": value}[reduce_op]
    statistics = StageStatistics()
    statistics.add(*batch(0))
    statistics.add_gap(torch.tensor(0.25))
    check(statistics.summary(trainer), naive([batch(0)]) | {"loss_gap": 0.25})


def test_extremes_of_all_processes_are_taken():
    trainer = OneProcess()
    other = {"-min": torch.tensor(-0.01), "max": torch.tensor(1.99)}

    def reduce(value, reduce_op):
        if reduce_op == "sum":
            return value
        name = "-min" if value.item() < 0 else "max"
        return torch.maximum(value, other[name].to(value.dtype))

    trainer.strategy.reduce = reduce
    statistics = StageStatistics()
    statistics.add(batch(0)[0], torch.tensor([0.5, 0.6, 0.7, 0.8, 0.9]))
    found = statistics.summary(trainer)
    assert (found["weight_min"], found["weight_max"]) == pytest.approx((0.01, 1.99))


@pytest.mark.parametrize("stop", [0, 1, 63, 64, 70, 99])
def test_a_stopped_stage_goes_on_bit_for_bit(tmp_path, stop):
    whole, first, second = StageStatistics(), StageStatistics(), StageStatistics()
    for i in range(100):
        if i == stop:
            torch.save(first.state_dict(), tmp_path / "state.pt")
            first.add(*batch(1000))  # what happens after the checkpoint is lost
            second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True), CPU)
        for statistics in (whole, first if i < stop else second):
            statistics.add(*batch(i))
            statistics.add_gap(torch.tensor(i / 7))
    assert summary(second) == summary(whole)


def test_a_state_stays_as_it_was_taken():
    statistics = StageStatistics()
    for i in range(66):
        statistics.add(*batch(i))
    state = statistics.state_dict()
    for i in range(66, 140):
        statistics.add(*batch(i))
    resumed = StageStatistics()
    resumed.load_state_dict(state, CPU)
    check(summary(resumed), naive([batch(i) for i in range(66)]))
