"""From rows to numbers: gains over plain training, their intervals, and LAW against the best rival."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
        gains: test accuracy after the last epoch less plain training's on the same draw, [searches, evaluation seeds].
        draws: of each search, [searches].
        best_epoch_gain: the same as ``gains`` after the epochs that validate best, mean over draws.
        interval: mean of ``gains`` over draws and its interval over them; of a single draw, over the evaluation seeds.
        over_budget: whether a search cost more steps than allowed.
        trainings: mean network steps of a search, in trainings.
        steps: the same in steps.
        seconds: mean wall time of a search.
    """

    task: str
    method: str
    gains: Gains
    draws: tuple[int, ...]
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
    def by_draw(self) -> dict[int, float]:
        """Mean gain of the searches on each draw."""
        return _by_draw(self.draws, self.by_search)

    @property
    def worst(self) -> float:
        """That of the worst search."""
        return float(self.by_search.min())

    @property
    def deviation(self) -> float | None:
        """Sample deviation over the searches of a draw, pooled over draws; None where each was searched once."""
        by_draw = self.by_draw
        spare = len(self.draws) - len(by_draw)
        means = np.asarray([by_draw[draw] for draw in self.draws])
        return float(np.sqrt(np.square(self.by_search - means).sum() / spare)) if spare else None


def gains(rows: Sequence[Row], bases: Mapping[int, Row], epoch: Epoch = "last") -> Gains:
    """Gains of one method's rows over plain training on the same draw, [searches, evaluation seeds]."""
    key = f"acc_{epoch}"
    return np.asarray([np.subtract(row[key], bases[row["draw"]][key]) for row in rows])


def _by_draw(draws: Sequence[int], values: Gains) -> dict[int, float]:
    each = sorted(set(draws))
    return {draw: float(np.mean([v for d, v in zip(draws, values, strict=True) if d == draw])) for draw in each}


def summarise(rows: Sequence[Row]) -> list[Summary]:
    """One summary for each task and method, in the order of the tables.

    Args:
        rows: all of one budget and one number of evaluation seeds; those without plain training on their draw are
            left out.

    Raises:
        ValueError: rows of several budgets, which cannot be compared.
    """
    if len({(row["budget"], row["eval_seeds"]) for row in rows}) > 1:
        raise ValueError("These rows have several budgets or numbers of evaluation seeds: give each a folder.")
    summaries = []
    for task in dict.fromkeys(row["task"] for row in rows):
        of_task = [row for row in rows if row["task"] == task]
        bases = {row["draw"]: row for row in of_task if row["method"] == BASE}
        for method in METHODS:
            chosen = [row for row in of_task if row["method"] == method and row["draw"] in bases]
            if chosen:
                chosen.sort(key=lambda row: (row["draw"], row["search_seed"]))
                summaries.append(_summary(task, method, chosen, bases))
    return summaries


def _summary(task: str, method: str, rows: Sequence[Row], bases: Mapping[int, Row]) -> Summary:
    matrix = gains(rows, bases)
    draws = tuple(row["draw"] for row in rows)
    spread = list(_by_draw(draws, matrix.mean(1)).values()) if len(set(draws)) > 1 else list(matrix.mean(0))
    best = _by_draw(draws, gains(rows, bases, "best").mean(1))
    return Summary(
        task=task,
        method=method,
        gains=matrix,
        draws=draws,
        best_epoch_gain=float(np.mean(list(best.values()))),
        interval=paired_difference(spread, [0.0] * len(spread)),
        over_budget=any(row["steps"] > row["budget"] * row["steps_per_training"] for row in rows),
        trainings=float(np.mean([row["steps"] / row["steps_per_training"] for row in rows])),
        steps=float(np.mean([row["steps"] for row in rows])),
        seconds=float(np.mean([row["search_s"] for row in rows])),
    )


@dataclass(frozen=True)
class Verdict:
    """LAW, or a variant, against the rival that came out best beside it on the test data.

    Picking the best of several by the result flatters the rival: the comparison is in its favour.

    Attributes:
        task: name.
        rival: name of the best rival.
        draws: on which both have searched.
        law: LAW's mean gain on them.
        difference: LAW's gain less the rival's, with an interval over the draws, each draw's gains being a pair; of a
            single draw, over searches (Welch's).
    """

    task: str
    rival: str
    draws: tuple[int, ...]
    law: float
    difference: Difference

    @property
    def words(self) -> str:
        """Ahead, level or behind: level while the interval holds zero."""
        if self.difference.low > 0:
            return "ahead"
        return "behind" if self.difference.high < 0 else "level"


def verdicts(summaries: Sequence[Summary], method: str = LAW) -> list[Verdict]:
    """One for each task on which LAW and a rival have searched on two draws or more, or both twice on one."""
    found = []
    for task in dict.fromkeys(summary.task for summary in summaries):
        of_task = {summary.method: summary for summary in summaries if summary.task == task}
        if method in of_task:
            compared = [_compared(of_task[method], of_task[name]) for name in RIVALS if name in of_task]
            known = [verdict for verdict in compared if verdict is not None]
            if known:
                found.append(min(known, key=lambda verdict: verdict.difference.mean))
    return found


def _compared(law: Summary, rival: Summary) -> Verdict | None:
    """On the draws that both have; None where there are too few searches for an interval."""
    draws = tuple(sorted(set(law.draws) & set(rival.draws)))
    own, other = ([summary.by_draw[draw] for draw in draws] for summary in (law, rival))
    if len(draws) > 1:
        return Verdict(law.task, rival.method, draws, float(np.mean(own)), paired_difference(own, other))
    first, second = (summary.by_search[np.isin(summary.draws, draws)] for summary in (law, rival))
    if min(len(first), len(second)) < 2:
        return None
    return Verdict(law.task, rival.method, draws, own[0], _welch(first, second))


def _welch(first: Gains, second: Gains, confidence: float = 0.95) -> Difference:
    mean = float(first.mean() - second.mean())
    if np.ptp(first) == 0 and np.ptp(second) == 0:  # no deviation at all: scipy calls the interval undefined
        return Difference(mean, mean, mean)
    interval = stats.ttest_ind(first, second, equal_var=False).confidence_interval(confidence)
    return Difference(mean, float(interval.low), float(interval.high))


def plain_training(rows: Sequence[Row], key: str) -> dict[str, float]:
    """By task: what plain training comes to, mean over seeds and draws.

    Args:
        rows: all rows.
        key: ``acc_last``, or ``wrong_fitted``, which tasks without wrong labels do not have.
    """
    found: dict[str, list[float]] = {}
    for row in rows:
        if row["method"] == BASE and row[key][0] is not None:
            found.setdefault(row["task"], []).append(float(np.mean(row[key])))
    return {task: float(np.mean(values)) for task, values in found.items()}
