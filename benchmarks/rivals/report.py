"""Results as lines of JSON, and table and figures of them: gains over plain training, and LAW beside its rivals."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from tqdm import tqdm

from law_lightning.report.style import COLOURS, DASHES, MARKERS, new_figure, save, tidy
from rivals.methods import BASE, KEYS, LAW, METHODS, RIVALS, Row

Gains = NDArray[np.float64]
Curve = Sequence[tuple[float, float]]  # episodes and gains
Job = tuple[Any, ...]


# -- rows ----------------------------------------------------------------------------------------------------------


def key_of(row: Row) -> tuple[Any, ...]:
    """The same for all rows of the same search."""
    return tuple(row[name] for name in KEYS)


def read_rows(path: Path) -> list[Row]:
    """All rows of a file; none if there is no file.

    Raises:
        ValueError: a line is damaged.
    """
    rows = []
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(f"Line {number} of {path} is damaged: delete it, and its job will run again.") from error
    return rows


def append_row(path: Path, row: Row) -> None:
    """Add a row in one write, so that a stop leaves no half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab", buffering=0) as file:
        file.write(json.dumps(row).encode() + b"\n")


def missing(jobs: Iterable[Job], path: Path) -> list[Job]:
    """The jobs, whose draw is the last part, of which the file has no row."""
    done = {(*row["job"], row["draw"]) for row in read_rows(path)}
    return [job for job in jobs if job not in done]


def completed(jobs: Iterable[Job], path: Path, run: Callable[..., Row]) -> list[Row]:
    """Run the jobs of which the file has no row, and return all its rows."""
    for job in tqdm(missing(jobs, path), unit="row"):
        append_row(path, run(*job))
    return read_rows(path)


# -- numbers -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Interval:
    """A mean and its two-sided 95 % interval, in shares of one."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"[{points(self.low)}, {points(self.high)}]"


def t_interval(values: Sequence[float], others: Sequence[float] | None = None) -> Interval:
    """Student's interval of a mean; with ``others`` Welch's, of the difference of two unpaired means."""
    first = np.asarray(values, dtype=np.float64)
    second = np.zeros(1) if others is None else np.asarray(others, dtype=np.float64)
    mean = float(first.mean() - second.mean())
    if np.ptp(first) == np.ptp(second) == 0:  # no deviation at all: scipy calls the interval undefined
        return Interval(mean, mean, mean)
    test = stats.ttest_1samp(first, 0.0) if others is None else stats.ttest_ind(first, second, equal_var=False)
    interval = test.confidence_interval(0.95)
    return Interval(mean, float(interval.low), float(interval.high))


@dataclass(frozen=True)
class Summary:
    """One method on one task; gains are in accuracy, [0, 1].

    Attributes:
        rows: of its searches, by draw.
        gains: test accuracy after the last epoch less plain training's on the same draw, [searches, evaluation seeds].
        best_epoch_gain: the same after the epochs that validate best, mean over draws.
    """

    task: str
    method: str
    rows: Sequence[Row]
    gains: Gains
    best_epoch_gain: float

    @property
    def draws(self) -> list[int]:
        """Of each search, [searches]."""
        return [row["draw"] for row in self.rows]

    @property
    def by_search(self) -> Gains:
        """Mean gain of each search, [searches]."""
        means: Gains = self.gains.mean(1)
        return means

    @property
    def by_draw(self) -> dict[int, float]:
        """Mean gain of the searches on each draw."""
        return _by_draw(self.rows, self.by_search)

    @property
    def interval(self) -> Interval:
        """Mean gain over draws and its interval over them; of a single draw, over the evaluation seeds."""
        by_draw = self.by_draw
        return t_interval([*by_draw.values()] if len(by_draw) > 1 else self.gains.mean(0))

    @property
    def deviation(self) -> float | None:
        """Sample deviation over the searches of a draw, pooled over draws; None where each was searched once."""
        by_draw = self.by_draw
        spare = len(self.draws) - len(by_draw)
        means = np.asarray([by_draw[draw] for draw in self.draws])
        return float(np.sqrt(np.square(self.by_search - means).sum() / spare)) if spare else None


def _by_draw(rows: Sequence[Row], values: Gains) -> dict[int, float]:
    found: dict[int, list[float]] = {}
    for row, value in zip(rows, values, strict=True):
        found.setdefault(row["draw"], []).append(value)
    return {draw: float(np.mean(each)) for draw, each in found.items()}


def summarise(rows: Sequence[Row]) -> list[Summary]:
    """One summary for each task and method, in the order of METHODS.

    Args:
        rows: all of one budget and one number of evaluation seeds; those without plain training on their draw are
            left out.
    """
    summaries = []
    for task, method in product(dict.fromkeys(row["task"] for row in rows), METHODS):
        bases = {row["draw"]: row for row in rows if (row["task"], row["method"]) == (task, BASE)}
        chosen = [row for row in rows if (row["task"], row["method"]) == (task, method) and row["draw"] in bases]
        chosen.sort(key=lambda row: (row["draw"], row["search_seed"]))
        if chosen:
            last, best = (
                np.asarray([np.subtract(row[key], bases[row["draw"]][key]) for row in chosen])
                for key in ("acc_last", "acc_best")
            )
            best_epoch = float(np.mean([*_by_draw(chosen, best.mean(1)).values()]))
            summaries.append(Summary(task, method, chosen, last, best_epoch))
    return summaries


@dataclass(frozen=True)
class Verdict:
    """LAW against the rival that came out best beside it on the test data.

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
    draws: list[int]
    law: float
    difference: Interval

    @property
    def words(self) -> str:
        """Ahead, level or behind: level while the interval holds zero."""
        if self.difference.low > 0:
            return "ahead"
        return "behind" if self.difference.high < 0 else "level"


def verdicts(summaries: Sequence[Summary]) -> list[Verdict]:
    """One for each task on which LAW and a rival have searched on two draws or more, or both twice on one."""
    found = []
    for task in dict.fromkeys(summary.task for summary in summaries):
        of_task = {summary.method: summary for summary in summaries if summary.task == task}
        if LAW in of_task:
            compared = [_compared(of_task[LAW], of_task[name]) for name in RIVALS if name in of_task]
            known = [verdict for verdict in compared if verdict is not None]
            found += sorted(known, key=lambda verdict: verdict.difference.mean)[:1]
    return found


def _compared(law: Summary, rival: Summary) -> Verdict | None:
    """On the draws that both have; None where there are too few searches for an interval."""
    draws = sorted({*law.draws} & {*rival.draws})
    own, other = (np.asarray([summary.by_draw[draw] for draw in draws]) for summary in (law, rival))
    if len(draws) > 1:
        return Verdict(law.task, rival.method, draws, float(own.mean()), t_interval(own - other))
    first, second = (summary.by_search[np.isin(summary.draws, draws)] for summary in (law, rival))
    if min(len(first), len(second)) < 2:
        return None
    return Verdict(law.task, rival.method, draws, float(own[0]), t_interval(first, second))


# -- text ----------------------------------------------------------------------------------------------------------


def points(value: float) -> str:
    """A share in points of a hundred, with its sign."""
    return f"{100 * value:+.1f}"


def markdown(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table that also reads well as text; the first two columns to the left, the others to the right.

    Example:
        >>> print(markdown(["a", "b", "c"], [["x", "y", "10"]]))
        | a | b |  c |
        |---|---|---:|
        | x | y | 10 |
    """
    widths = [max(len(row[column]) for row in [heading, *rows]) for column in range(len(heading))]

    def line(cells: Sequence[str]) -> str:
        left = [cell.ljust(width) for cell, width in zip(cells[:2], widths, strict=False)]
        right = [cell.rjust(width) for cell, width in zip(cells[2:], widths[2:], strict=True)]
        return "| " + " | ".join(left + right) + " |"

    rule = ["-" * (width + 2) if column < 2 else "-" * (width + 1) + ":" for column, width in enumerate(widths)]
    return "\n".join([line(heading), "|" + "|".join(rule) + "|", *map(line, rows)])


def results_table(summaries: Sequence[Summary]) -> str:
    """All methods; on each task the greatest gain of those that look at validation data on all its draws is marked."""
    heading = (
        "task", "method", "draws", "searches", "gain", "95% interval", "sd of searches", "worst search", "best epoch",
        "trainings", "steps", "time",
    )  # fmt: skip
    rows = []
    for task in dict.fromkeys(summary.task for summary in summaries):
        of_task = [summary for summary in summaries if summary.task == task and summary.method != BASE]
        searchers = [each for each in of_task if each.method in RIVALS or each.method.startswith(LAW)]
        draws = {draw for summary in searchers for draw in summary.draws}
        whole = [summary for summary in searchers if {*summary.draws} == draws]  # others have met other difficulties
        best = max(whole, key=lambda summary: summary.interval.mean, default=None)
        for summary in of_task:
            gain = points(summary.interval.mean)
            trainings = [row["steps"] / row["steps_per_training"] for row in summary.rows]
            over_budget = any(row["steps"] > row["budget"] * row["steps_per_training"] for row in summary.rows)
            rows.append([
                task,
                summary.method,
                str(len(summary.by_draw)),
                str(len(summary.gains)),
                f"**{gain}**" if summary is best else gain,
                str(summary.interval),
                "" if summary.deviation is None else f"{100 * summary.deviation:.1f}",
                points(summary.by_search.min()),
                points(summary.best_epoch_gain),
                f"{np.mean(trainings):.1f}" + ("!" if over_budget else ""),
                f"{np.mean([row['steps'] for row in summary.rows]):,.0f}",
                f"{np.mean([row['search_s'] for row in summary.rows]) / 60:.1f} min",
            ])  # fmt: skip
    return markdown(heading, rows)


def verdict_table(found: Sequence[Verdict]) -> str:
    """LAW against the best rival of each task."""
    rows = [
        [
            each.task, each.rival, ", ".join(map(str, each.draws)), points(each.law),
            points(each.law - each.difference.mean), points(each.difference.mean), str(each.difference), each.words,
        ]
        for each in found
    ]  # fmt: skip
    return markdown(["task", "best rival", "draws", "LAW", "rival", "difference", "95% interval", "LAW is"], rows)


def plain_table(rows: Sequence[Row]) -> str:
    """What plain training comes to on each task, mean over seeds and draws."""
    lines = []
    for task in dict.fromkeys(row["task"] for row in rows):
        plain = [row for row in rows if (row["task"], row["method"]) == (task, BASE)]
        wrong = [row["wrong_fitted"] for row in plain if row["wrong_fitted"][0] is not None]
        if plain:
            accuracy = f"{100 * np.mean([row['acc_last'] for row in plain]):.1f}"
            lines.append([task, accuracy, f"{100 * np.mean(wrong):.0f}" if wrong else "-"])
    return markdown(["task", "accuracy %", "wrong labels fitted %"], lines)


def write_report(rows: Sequence[Row], folder: Path) -> str:
    """Write ``table.md`` and a figure for each task; the table's text is returned too.

    Args:
        rows: all of one budget and one number of evaluation seeds.
        folder: where to.
    """
    summaries = summarise(rows)
    text = (
        "Plain training: test accuracy after the last epoch, and the share of the wrong training labels it fits.\n\n"
        f"{plain_table(rows)}\n\n"
        "Test accuracy gained over plain training on the same fresh seeds, in points; last epoch unless said. Gain and "
        "interval are over draws (of a single draw, over evaluation seeds), the deviation over the searches of a draw; "
        "steps are those of a search (! over budget); bold is the best of those that look at validation data and have "
        "searched on all draws. Draws of the digits share images, so that their interval is a little too narrow.\n\n"
        f"{results_table(summaries)}\n"
    )
    found = verdicts(summaries)
    if found:
        text += (
            "\nLAW against the rival that is best beside it by the test data, which flatters the rival, on the draws "
            "that both have searched on; interval over draws, paired (of a single draw over searches, Welch's).\n\n"
            f"{verdict_table(found)}\n"
        )
    (folder / "table.md").write_text(text, encoding="utf-8")
    for task in dict.fromkeys(summary.task for summary in summaries):
        shown = [summary for summary in summaries if summary.task == task and summary.method != BASE]
        draw_task(task, shown, folder / f"{task}.png")
    return text


# -- figures -------------------------------------------------------------------------------------------------------


def draw_task(task: str, shown: Sequence[Summary], path: Path) -> Path:
    """Above how LAW learns, below where all methods end.

    Above: the gain of LAW's greedy strategy in the course of the search, on validation data: the mean over searches,
    the band from the lowest to the highest. Below: what each method ended with on test data: a dot for each search, a
    mark for its gain with the interval that the table has.
    """
    curves = [row["curve"] for summary in shown if summary.method == LAW for row in summary.rows]
    heights = [2.2, 0.8 + 0.24 * len(shown)]
    figure = new_figure(sum(heights))
    upper, lower = figure.subplots(2, 1, height_ratios=heights)
    gains: dict[int, list[float]] = {0: [0.0]}  # weights begin at one, so a search begins at no gain
    for curve in curves:
        for episode, gain in curve:
            gains.setdefault(episode, []).append(100 * gain)
    x = sorted(gains)
    upper.fill_between(x, [min(gains[e]) for e in x], [max(gains[e]) for e in x], alpha=0.18, linewidth=0)
    upper.plot(x, [np.mean(gains[e]) for e in x], marker="o", label=f"mean and range of {len(curves)} searches")
    upper.set(xlabel="Episode", ylabel="Accuracy gained (points)")
    upper.axhline(0, color="0.3", linewidth=1, zorder=1)
    for row, summary in enumerate(shown):
        # LAW, rivals that search, and what does not look at validation data.
        colour, marker = (
            (COLOURS[0], "D") if summary.method.startswith(LAW)
            else (COLOURS[1], "o") if summary.method in RIVALS else ("0.4", "s")
        )  # fmt: skip
        interval = summary.interval
        mean, low, high = 100 * interval.mean, 100 * interval.low, 100 * interval.high
        of_searches = 100 * summary.by_search
        lower.scatter(of_searches, [row - 0.22] * len(of_searches), s=10, facecolors="none", edgecolors=colour)
        lower.errorbar(
            *(mean, row + 0.12), xerr=[[mean - low], [high - mean]],
            color=colour, marker=marker, markersize=5, capsize=2.5, linewidth=1.4,
        )  # fmt: skip
    lower.set_yticks(range(len(shown)), [summary.method for summary in shown], fontsize=9)
    lower.set_ylim(len(shown) - 0.4, -0.6)
    lower.set_xlabel("Accuracy gained (points)")
    lower.axvline(0, color="0.3", linewidth=1, zorder=1)
    tidy(upper, f"{task}: LAW's greedy strategy, validation", 1)
    tidy(lower, "Test data: searches, mean, 95% interval")
    return save(figure, path)


def draw_learning(curves: Mapping[str, Sequence[Curve]], path: Path) -> Path:
    """The validated gain of several agents in the course of their searches, each search a line."""
    figure = new_figure(3.2)
    axes = figure.add_subplot()
    for (agent, of_agent), colour, marker, dash in zip(curves.items(), COLOURS, MARKERS, DASHES, strict=False):
        for number, curve in enumerate(of_agent):
            axes.plot(
                *zip(*curve, strict=True),
                color=colour, marker=marker, linestyle=dash, markersize=4, linewidth=1.3,
                label=None if number else f"{agent} agent ({len(of_agent)} search{'es' * (len(of_agent) > 1)})",
            )  # fmt: skip
    axes.set(xlabel="Episode", ylabel="Validation accuracy\ngained (points)")
    axes.axhline(0, color="0.3", linewidth=1, zorder=1)
    tidy(axes, legend=2)
    return save(figure, path)
