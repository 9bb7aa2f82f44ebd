import math
from itertools import product

import numpy as np
import pytest

from law_lightning.report.compare import paired_difference, summarise, summary_table
from law_lightning.report.records import Outcome

BASE = [0.76, 0.78, 0.75, 0.79, 0.77, 0.74]
LAW = [0.86, 0.87, 0.88, 0.85, 0.89, 0.86]


def outcomes(columns):
    return [
        Outcome(method, 100 + index, value, value + 0.01 * (index % 2), index)
        for method, values in columns.items()
        for index, value in enumerate(values)
    ]


#: Tabled quantiles of Student's t at 5 degrees of freedom.
@pytest.mark.parametrize(("confidence", "t"), [(0.95, 2.570581835636314), (0.99, 4.032142983557536)])
def test_interval_agrees_with_the_formula_by_hand(confidence, t):
    differences = [law - base for law, base in zip(LAW, BASE, strict=True)]
    mean = sum(differences) / 6
    half = t * math.sqrt(sum((d - mean) ** 2 for d in differences) / 5) / math.sqrt(6)
    assert paired_difference(LAW, BASE, confidence) == pytest.approx((mean, mean - half, mean + half), abs=1e-10)


def test_summary_of_every_method_and_epoch():
    rows = outcomes({"base": BASE, "law": LAW, "other": BASE})
    summaries = summarise(rows)
    assert [(s.epoch, s.method) for s in summaries] == [*product(("last", "best"), ("base", "law", "other"))]
    base, law, other = summaries[:3]
    assert (base.mean, base.sd) == pytest.approx((np.mean(BASE), np.std(BASE, ddof=1)))
    assert base.difference is None
    assert law.seeds == 6
    assert (law.difference, law.low, law.high) == paired_difference(LAW, BASE)
    assert (other.difference, other.low, other.high) == (0.0, 0.0, 0.0)
    mixed = [*rows[:6], *rows[11:5:-1], *rows[12:]]
    assert summarise(mixed) == summaries  # pairs are of seeds, not of rows
    assert all(summary.difference is None for summary in summarise(outcomes({"law": LAW})))  # there is no base


def test_table_shows_percent_and_points():
    lasts = {"base": (0.5, 0.6), "law": (0.6, 0.7)}
    bests = {"base": (0.6, 0.7), "law": (0.6, 0.72)}
    rows = [Outcome(m, seed, lasts[m][seed], bests[m][seed], 3) for m in lasts for seed in (0, 1)]
    lines = summary_table(summarise(rows)).splitlines()
    assert lines[0].split("  ")[0] == "method"
    assert "95% interval" in lines[0]
    assert lines[2].split() == ["base", "last", "2", "55.00", "7.07"]
    assert lines[3].split()[:6] == ["law", "last", "2", "65.00", "7.07", "+10.00"]
    assert lines[5].split()[-3:] == ["+1.00", "[-11.71,", "+13.71]"]
    assert all(len(line) <= len(lines[1]) for line in lines)
