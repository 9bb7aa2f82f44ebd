"""From rows to numbers: gains over plain training, their intervals, and LAW against the best rival."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from law_lightning.report.compare import Difference, Epoch, paired_difference
from rivals.law import LAW
from rivals.methods import BASE, METHODS, RIVALS
from rivals.rows import Row

Gains = NDArray[np.float64]


@dataclass(frozen=True)
class Summary:
    """One method on one task; gains are in accuracy, [0, 1].

    Attributes:
        task: name.
        method: name.
        gains: test accuracy after the last epoch less plain training's, [searches, evaluation seeds].
        best_epoch_gain: the same after the epochs that validate best, mean.
        interval: mean of ``gains`` over searches, then its interval over the evaluation seeds.
        over_budget: whether a search cost more steps than allowed.
        trainings: mean network steps of a search, in trainings.
        steps: the same in steps.
        seconds: mean wall time of a search.
    """

    task: str
    method: str
    gains: Gains
    best_epoch_gain: float
    interval: Difference
    over_budget: bool
    trainings: float
    steps: float
    seconds: float

    @property
    def by_search(self) -> Gains:
        """Mean gain of each search, [searches]."""
        means: Gains = self.gains.mean(1)
        return means

    @property
    def worst(self) -> float:
        """That of the worst search."""
        return float(self.by_search.min())

    @property
    def deviation(self) -> float | None:
        """Sample deviation over the searches; None for a single one."""
        return float(self.by_search.std(ddof=1)) if len(self.gains) > 1 else None


def gains(rows: Sequence[Row], base: Row, epoch: Epoch = "last") -> Gains:
    """Gains of one method's rows over the row of plain training, [searches, evaluation seeds]."""
    key = f"acc_{epoch}"
    return np.asarray([row[key] for row in rows]) - np.asarray(base[key])


def summarise(rows: Sequence[Row]) -> list[Summary]:
    """One summary for each task and method, in the order of the tables.

    Args:
        rows: all of one budget and one number of evaluation seeds; tasks without plain training are left out.

    Raises:
        ValueError: rows of several budgets, which cannot be compared.
    """
    if len({(row["budget"], row["eval_seeds"]) for row in rows}) > 1:
        raise ValueError("These rows have several budgets or numbers of evaluation seeds: give each a folder.")
    summaries = []
    for task in dict.fromkeys(row["task"] for row in rows):
        of_task = [row for row in rows if row["task"] == task]
        base = next((row for row in of_task if row["method"] == BASE), None)
        if base is None:
            continue
        for method in METHODS:
            chosen = sorted((row for row in of_task if row["method"] == method), key=lambda row: row["search_seed"])
            if chosen:
                summaries.append(_summary(task, method, chosen, base))
    return summaries


def _summary(task: str, method: str, rows: Sequence[Row], base: Row) -> Summary:
    matrix = gains(rows, base)
    return Summary(
        task=task,
        method=method,
        gains=matrix,
        best_epoch_gain=float(gains(rows, base, "best").mean()),
        interval=paired_difference(list(matrix.mean(0)), [0.0] * matrix.shape[1]),
        over_budget=any(row["steps"] > row["budget"] * row["steps_per_training"] for row in rows),
        trainings=float(np.mean([row["steps"] / row["steps_per_training"] for row in rows])),
        steps=float(np.mean([row["steps"] for row in rows])),
        seconds=float(np.mean([row["search_s"] for row in rows])),
    )


@dataclass(frozen=True)
class Verdict:
    """LAW, or a variant, against the rival that came out best on the test data.

    Picking the best of several by the result flatters the rival: the comparison is in its favour.

    Attributes:
        task: name.
        law: LAW's summary.
        rival: the best rival's.
        difference: LAW's gain less the rival's, with an interval over searches (Welch's).
    """

    task: str
    law: Summary
    rival: Summary
    difference: Difference

    @property
    def words(self) -> str:
        """Ahead, level or behind: level while the interval holds zero."""
        if self.difference.low > 0:
            return "ahead"
        return "behind" if self.difference.high < 0 else "level"


def verdicts(summaries: Sequence[Summary], method: str = LAW) -> list[Verdict]:
    """One for each task on which both LAW and a rival have searched at least twice."""
    found = []
    for task in dict.fromkeys(summary.task for summary in summaries):
        of_task = {summary.method: summary for summary in summaries if summary.task == task}
        rivals = [of_task[name] for name in RIVALS if name in of_task]
        if method in of_task and rivals:
            best = max(rivals, key=lambda summary: summary.interval.mean)
            if min(len(of_task[method].gains), len(best.gains)) > 1:
                difference = _welch(of_task[method].by_search, best.by_search)
                found.append(Verdict(task, of_task[method], best, difference))
    return found


def _welch(first: Gains, second: Gains, confidence: float = 0.95) -> Difference:
    mean = float(first.mean() - second.mean())
    if np.ptp(first) == 0 and np.ptp(second) == 0:  # no deviation at all: scipy calls the interval undefined
        return Difference(mean, mean, mean)
    interval = stats.ttest_ind(first, second, equal_var=False).confidence_interval(confidence)
    return Difference(mean, float(interval.low), float(interval.high))


def memorised(rows: Sequence[Row]) -> dict[str, float]:
    """By task: share of the wrong labels that plain training fits, where there are any."""
    return {
        row["task"]: float(np.mean(row["wrong_fitted"]))
        for row in rows
        if row["method"] == BASE and row["wrong_fitted"][0] is not None
    }
