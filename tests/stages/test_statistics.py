import math
from types import SimpleNamespace

import pytest
import torch

from law_lightning import Samples
from law_lightning.stages.statistics import StageStatistics

CPU = torch.device("cpu")


def summary(statistics, reduce=lambda value, reduce_op: value):
    """Of one process, unless ``reduce`` says otherwise."""
    return statistics.summary(SimpleNamespace(strategy=SimpleNamespace(reduce=reduce, root_device=CPU)))


def batch(seed, count=5, classes=4, **changes):
    draw = torch.Generator().manual_seed(seed)
    parts = {
        "loss": torch.rand(count, generator=draw),
        "logits": torch.randn(count, classes, generator=draw),
        "target": torch.randint(classes - 1, (count,), generator=draw),  # the last class is never seen
    }
    return Samples(**(parts | changes)), 2 * torch.rand(count, generator=draw)


def added(batches):
    statistics = StageStatistics(margins=True)
    for each in batches:
        statistics.add(*each)
    return statistics


def naive(batches):
    """The same, sample by sample."""
    losses, weighted, right, weights, classes, margins, confident = [], [], [], [], {}, {}, []
    for number, (samples, given) in enumerate(batches):
        if number % 64 == 0:  # the third is taken of what is summed up at once
            confident.append([])
        for i in range(len(samples)):
            if samples.valid is not None and not samples.valid[i]:
                continue
            weight = 1.0 if given is None else given[i].item()
            weights.append(weight)
            right.append(samples.accuracy[i].item())
            label = samples.target[i].item()
            classes.setdefault(label, []).append(weight)
            predicted = samples.logits[i].softmax(0).tolist()
            confident[-1].append((max(predicted), 1 - right[-1]))
            margins.setdefault(label, []).append(predicted.pop(label) - max(predicted))
            if math.isfinite(samples.loss[i].item()):
                losses.append(samples.loss[i].item())
                weighted.append(weight * losses[-1])
    mean, error = sum(weights) / len(weights), 1 - sum(right) / len(right)
    thirds = [sorted(rows, key=lambda row: -row[0])[: round(len(rows) / 3)] for rows in confident]
    most = [wrong for rows in thirds for _, wrong in rows]
    every_class = range(max(samples.num_classes for samples, _ in batches))
    return {
        "loss": sum(losses) / len(losses),
        "weighted_loss": sum(weighted) / len(weighted),
        "accuracy": sum(right) / len(right),
        "loss_gap": None,
        "weight_mean": mean,
        "weight_std": math.sqrt(sum((w - mean) ** 2 for w in weights) / len(weights)),
        "weight_min": min(weights),
        "weight_max": max(weights),
        "weight_per_class": [sum(classes[c]) / len(classes[c]) if c in classes else None for c in every_class],
        "margin_per_class": [sum(margins[c]) / len(margins[c]) if c in margins else None for c in every_class],
        "count_per_class": [len(classes.get(c, ())) for c in every_class],
        "confident_error": sum(most) / len(most) / error if most and error else 0.0,
    }


def check(got, expected):
    assert got.keys() == expected.keys()
    lists = [name for name in got if name.endswith("_per_class")]
    pairs = [pair for name in lists for pair in zip(got.pop(name), expected.pop(name), strict=True)]
    for mine, theirs in [*pairs, (got.pop("loss_gap"), expected.pop("loss_gap"))]:
        assert mine == (None if theirs is None else pytest.approx(theirs, rel=1e-6, abs=1e-6))
    assert got == pytest.approx(expected, rel=1e-5, abs=1e-6)


VALID = torch.tensor([True, False, True, False, True])
HALF = batch(0, count=400)
STAGES = {
    **{f"{count} batches": [batch(i, count=1 + i % 4) for i in range(count)] for count in (1, 63, 64, 65, 150)},
    "samples without a label": [batch(0, valid=VALID), batch(1), batch(2, valid=~VALID, correct=torch.ones(5))],
    "losses not finite": [batch(0, loss=torch.tensor([1.0, math.nan, 2.0, math.inf, 3.0]))],
    "no weights": [(batch(3)[0], None)],
    "correct in parts": [batch(0, correct=torch.tensor([0.5, 0.25, 1.0, 0.0, 0.0]))],
    "a wider head later": [*[batch(i) for i in range(64)], batch(64, classes=6)],
    "one sample": [batch(0, count=1)],
    "bfloat16": [(Samples(HALF[0].loss.bfloat16(), HALF[0].logits, HALF[0].target), HALF[1].bfloat16())],
}


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_is_summed_up(name):
    check(summary(statistics := added(STAGES[name])), naive(STAGES[name]))
    assert statistics.num_lost == 2 * (name == "losses not finite")


@pytest.mark.parametrize("batches", [[], [batch(0, valid=torch.zeros(5, dtype=torch.bool))]])
def test_a_stage_without_labels_has_a_defined_summary(batches):
    found = summary(added(batches))
    assert all(math.isnan(found.pop(name)) for name in ("loss", "weighted_loss", "accuracy"))
    assert found == {
        "confident_error": 0.0, "loss_gap": None, "weight_mean": 1.0, "weight_std": 0.0,
        "weight_min": 1.0, "weight_max": 1.0, "weight_per_class": [None] * len(batches) * 4,
        "margin_per_class": [None] * len(batches) * 4, "count_per_class": [0] * len(batches) * 4,
    }  # fmt: skip


@pytest.mark.parametrize("gaps", [[0.3], [i / 7 - 5 for i in range(64)], [i / 7 for i in range(100)], [3e38] * 3])
def test_the_gap_is_the_mean_over_steps(gaps):
    """Also beyond single precision."""
    statistics = added([batch(0)])
    for gap in [*gaps, math.nan, math.inf]:
        statistics.add_gap(torch.tensor(gap))
    assert summary(statistics)["loss_gap"] == pytest.approx(sum(gaps) / len(gaps), rel=1e-6, abs=1e-6)


def test_a_summary_starts_anew():
    statistics = added([batch(0)])
    statistics.add_gap(torch.tensor(2.0))
    summary(statistics)
    statistics.add(*batch(1))
    check(summary(statistics), naive([batch(1)]))


def test_without_margins_there_is_the_rest():
    statistics = StageStatistics()
    statistics.add(*batch(0))
    expected = naive([batch(0)])
    check(summary(statistics), {k: v for k, v in expected.items() if k[:6] not in ("margin", "count_", "confid")})


def test_what_is_kept_is_bounded():
    statistics = StageStatistics(margins=True)
    for i in range(130):
        statistics.add(*batch(i))
        statistics.add_gap(torch.tensor(0.0))
        state = statistics.state_dict()
        assert max(len(state["batches"]), len(state["gaps"])) < 64


def test_processes_add_up():
    """A second process with the same samples, a wider head and other extremes: sums double."""

    def reduce(value, reduce_op):
        if reduce_op == "sum":
            return 2 * value
        return value + 1 if value.ndim == 0 else torch.maximum(value, torch.tensor([1.99, -0.001], dtype=value.dtype))

    statistics = added([batch(0)])
    statistics.add_gap(torch.tensor(0.25))
    expected = naive([batch(0)])
    for name, more in {"weight_per_class": None, "margin_per_class": None, "count_per_class": 0}.items():
        expected[name].append(more)
    expected |= {"loss_gap": 0.25, "weight_min": 0.001, "weight_max": 1.99}
    expected["count_per_class"] = [2 * count for count in expected["count_per_class"]]
    check(summary(statistics, reduce), expected)


@pytest.mark.parametrize("stop", [0, 63, 64, 70, 99])
def test_a_stopped_stage_goes_on_bit_for_bit(tmp_path, stop):
    whole, first, second = StageStatistics(margins=True), StageStatistics(margins=True), StageStatistics(margins=True)
    for i in range(100):
        if i == stop:
            state = first.state_dict()
            for j in range(1000, 1070):  # what happens after the checkpoint is lost
                first.add(*batch(j))
            torch.save(state, tmp_path / "state.pt")
            second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        for statistics in (whole, first if i < stop else second):
            statistics.add(*batch(i))
            statistics.add_gap(torch.tensor(i / 7))
    assert summary(second) == summary(whole)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state["sums"].pop("gap"), "sums over the samples do not fit"),
        (lambda state: state["sums"].update(totals=torch.zeros(6)), "sums over the samples do not fit"),
        (lambda state: state.update(num_classes=3), "sums over the samples do not fit"),
        (lambda state: state.update(num_classes=10**12), "sums over the samples do not fit"),
        (lambda state: state["batches"][0][3].fill_(4), "losses, weights and labels do not fit"),
        (lambda state: state["batches"].append(torch.zeros(7, 2)), "losses, weights and labels do not fit"),
        (lambda state: state["gaps"].append(torch.zeros(2)), "gaps are not numbers"),
    ],
)
def test_a_damaged_state_is_refused(change, message):
    statistics = added([batch(i) for i in range(65)])
    change(state := statistics.state_dict())
    with pytest.raises(ValueError, match=message):
        StageStatistics(margins=True).load_state_dict(state)
