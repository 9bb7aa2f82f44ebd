import math

import numpy as np
import pytest
from scipy import stats

from law_lightning.report.compare import Difference, paired_difference, summarise
from law_lightning.report.records import Outcome

BASE = [0.76, 0.78, 0.75, 0.79, 0.77, 0.74]
LAW = [0.86, 0.87, 0.88, 0.85, 0.89, 0.86]


def outcomes(columns: dict[str, list[float]]) -> list[Outcome]:
    return [
        Outcome(method, 100 + index, value, value + 0.01 * (index % 2), index)
        for method, values in columns.items()
        for index, value in enumerate(values)
    ]


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_interval_agrees_with_the_paired_t_test(confidence):
    expected = stats.ttest_rel(LAW, BASE).confidence_interval(confidence)
    got = paired_difference(LAW, BASE, confidence)
    assert got.low == pytest.approx(expected.low, abs=1e-12)
    assert got.high == pytest.approx(expected.high, abs=1e-12)


def test_interval_agrees_with_the_formula_by_hand():
    differences = [law - base for law, base in zip(LAW, BASE, strict=True)]
    mean = sum(differences) / 6
    deviation = math.sqrt(sum((d - mean) ** 2 for d in differences) / 5)
    half = 2.570581835636314 * deviation / math.sqrt(6)  # the tabled t of 97.5 % at 5 degrees of freedom
    got = paired_difference(LAW, BASE)
    assert (got.mean, got.low, got.high) == pytest.approx((mean, mean - half, mean + half), abs=1e-12)


def test_equal_differences_give_a_point():
    assert paired_difference([0.5, 0.25], [0.25, 0.0]) == Difference(0.25, 0.25, 0.25)


@pytest.mark.parametrize(
    ("values", "baseline", "confidence", "message"),
    [
        ([1.0], [1.0], 0.95, "length >= 2"),
        ([1.0, 2.0], [1.0], 0.95, "got 2 and 1"),
        ([1.0, 2.0], [1.0, 2.0], 1.0, "confidence is 1.0"),
    ],
)
def test_bad_input_of_the_difference_is_named(values, baseline, confidence, message):
    with pytest.raises(ValueError, match=message):
        paired_difference(values, baseline, confidence)


def test_summary_of_every_method_and_epoch():
    summaries = summarise(outcomes({"base": BASE, "law": LAW, "other": BASE}))
    assert [(s.method, s.epoch) for s in summaries] == [
        (method, epoch) for epoch in ("last", "best") for method in ("base", "law", "other")
    ]
    base, law, other = summaries[:3]
    assert (base.mean, base.sd) == pytest.approx((np.mean(BASE), np.std(BASE, ddof=1)))
    assert base.difference is None
    assert law.count == 6
    assert law.difference == paired_difference(LAW, BASE)
    assert other.difference == Difference(0.0, 0.0, 0.0)


def test_summary_pairs_by_seed_not_by_row():
    rows = outcomes({"base": BASE, "law": LAW})
    assert {s.difference for s in summarise(rows)} == {s.difference for s in summarise([*rows[6:], *rows[5::-1]])}


def test_summary_without_baseline_has_no_differences():
    assert all(summary.difference is None for summary in summarise(outcomes({"law": LAW})))


def test_bad_input_of_the_summary_is_named():
    with pytest.raises(ValueError, match=r"missing are \[\('law', 105\)\]"):
        summarise(outcomes({"base": BASE, "law": LAW[:-1]}))
    with pytest.raises(ValueError, match="at least 2 seeds, got 1"):
        summarise(outcomes({"base": BASE[:1]}))
