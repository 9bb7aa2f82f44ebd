"""The summaries as Markdown and as CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from law_lightning.report.compare import Difference
from law_lightning.report.records import write_rows
from rivals.law import VARIANTS
from rivals.methods import BASE, RIVALS
from rivals.summary import Summary, Verdict

_HEADING = (
    "task", "method", "draws", "searches", "gain", "95% interval", "sd of searches", "worst search", "best epoch",
    "trainings", "steps", "time",
)  # fmt: skip


def points(value: float) -> str:
    """A share in points of a hundred, with its sign."""
    return f"{100 * value:+.1f}"


def interval(difference: Difference) -> str:
    """The ends of an interval."""
    return f"[{points(difference.low)}, {points(difference.high)}]"


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
        padded = [
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "| " + " | ".join(padded) + " |"

    rule = ["-" * (width + 2) if column < 2 else "-" * (width + 1) + ":" for column, width in enumerate(widths)]
    return "\n".join([line(heading), "|" + "|".join(rule) + "|", *map(line, rows)])


def results_table(summaries: Sequence[Summary]) -> str:
    """All methods; on each task the greatest gain of those that look at validation data on all its draws is marked."""
    searchers = [summary for summary in summaries if summary.method in (*RIVALS, *VARIANTS)]
    best = {}
    for task in dict.fromkeys(summary.task for summary in searchers):
        of_task = [summary for summary in searchers if summary.task == task]
        draws = {draw for summary in of_task for draw in summary.draws}
        whole = [summary for summary in of_task if set(summary.draws) == draws]  # others have met other difficulties
        best[task] = max(whole, key=lambda summary: summary.interval.mean, default=None)
    rows = []
    for summary in summaries:
        if summary.method == BASE:
            continue
        gain = points(summary.interval.mean)
        rows.append([
            summary.task,
            summary.method,
            str(len(summary.by_draw)),
            str(len(summary.gains)),
            f"**{gain}**" if best.get(summary.task) is summary else gain,
            interval(summary.interval),
            "" if summary.deviation is None else f"{100 * summary.deviation:.1f}",
            points(summary.worst),
            points(summary.best_epoch_gain),
            f"{summary.trainings:.1f}" + ("!" if summary.over_budget else ""),
            f"{summary.steps:,.0f}",
            f"{summary.seconds / 60:.1f} min",
        ])  # fmt: skip
    return markdown(_HEADING, rows)


def verdict_table(verdicts: Sequence[Verdict]) -> str:
    """LAW against the best rival of each task."""
    rows = [
        [
            verdict.task,
            verdict.rival,
            ", ".join(map(str, verdict.draws)),
            points(verdict.law),
            points(verdict.law - verdict.difference.mean),
            points(verdict.difference.mean),
            interval(verdict.difference),
            verdict.words,
        ]
        for verdict in verdicts
    ]
    return markdown(["task", "best rival", "draws", "LAW", "rival", "difference", "95% interval", "LAW is"], rows)


def document(
    summaries: Sequence[Summary],
    verdicts: Sequence[Verdict],
    base_accuracies: Mapping[str, float],
    memorised: Mapping[str, float],
) -> str:
    """Everything in one Markdown text.

    Args:
        summaries: of all methods.
        verdicts: of LAW.
        base_accuracies: plain training's test accuracy by task.
        memorised: by task, the share of wrong labels that plain training fits.
    """
    tasks = [
        [task, f"{100 * value:.1f}", f"{100 * memorised[task]:.0f}" if task in memorised else "-"]
        for task, value in base_accuracies.items()
    ]
    parts = [
        "Plain training: test accuracy after the last epoch, and the share of the wrong training labels it fits.",
        markdown(["task", "accuracy %", "wrong labels fitted %"], tasks),
        "Test accuracy gained over plain training on the same fresh seeds, in points; last epoch unless said. Gain and "
        "interval are over draws (of a single draw, over evaluation seeds), the deviation over the searches of a draw; "
        "steps are those of a search (! over budget); bold is the best of those that look at validation data and have "
        "searched on all draws. Draws of the digits share images, so that their interval is a little too narrow.",
        results_table(summaries),
    ]
    if verdicts:
        parts += [
            "LAW against the rival that is best beside it by the test data, which flatters the rival, on the draws "
            "that both have searched on; interval over draws, paired (of a single draw over searches, Welch's).",
            verdict_table(verdicts),
        ]
    return "\n\n".join(parts) + "\n"


def write_csv(summaries: Sequence[Summary], path: Path) -> None:
    """One line for each task and method, in shares of one."""
    rows: list[dict[str, object]] = [
        {
            "task": summary.task,
            "method": summary.method,
            "draws": len(summary.by_draw),
            "searches": len(summary.gains),
            "eval_seeds": summary.gains.shape[1],
            "gain": summary.interval.mean,
            "low": summary.interval.low,
            "high": summary.interval.high,
            "search_sd": "" if summary.deviation is None else summary.deviation,
            "worst_search": summary.worst,
            "gain_best_epoch": summary.best_epoch_gain,
            "steps": summary.steps,
            "trainings": summary.trainings,
            "over_budget": summary.over_budget,
            "search_seconds": summary.seconds,
        }
        for summary in summaries
    ]
    write_rows(rows, path)
