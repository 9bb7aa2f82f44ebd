"""The comparison as plain text and as rows for a CSV file."""

from __future__ import annotations

from collections.abc import Sequence

from law_lightning.report.compare import Summary

_EPOCHS = {"last": "last", "best": "best by validation"}


def format_table(rows: Sequence[Sequence[str]]) -> str:
    """Align columns: the first two to the left, the others to the right, a rule under the heading.

    Example:
        >>> print(format_table([["a", "b", "c"], ["x", "y", "10"]]))
        a  b   c
        --------
        x  y  10
    """
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if position < 2 else cell.rjust(width)
            for position, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def comparison_table(summaries: Sequence[Summary], baseline: str = "base", confidence: float = 0.95) -> str:
    """Test accuracies in percent, differences in points, as a text table."""
    heading = ["method", "epoch", "seeds", "mean %", "sd", f"minus {baseline}", f"{confidence:.0%} interval"]
    rows = [heading]
    for summary in summaries:
        difference = summary.difference
        rows.append(
            [
                summary.method,
                _EPOCHS[summary.epoch],
                str(summary.count),
                f"{100 * summary.mean:.2f}",
                f"{100 * summary.sd:.2f}",
                "" if difference is None else f"{100 * difference.mean:+.2f}",
                "" if difference is None else f"[{100 * difference.low:+.2f}, {100 * difference.high:+.2f}]",
            ]
        )
    return format_table(rows)


def told_table(told: dict[str, str]) -> str:
    """What methods were told beside the training data, for below a table; empty if none was told anything.

    Example:
        >>> print(told_table({"base": "", "l2rw": "clean data", "law": "clean data"}))
        <BLANKLINE>
        <BLANKLINE>
        Told beside the training data: clean data (l2rw, law).
    """
    methods: dict[str, list[str]] = {}
    for method, what in told.items():
        if what:
            methods.setdefault(what, []).append(method)
    if not methods:
        return ""
    parts = "; ".join(f"{what} ({', '.join(names)})" for what, names in methods.items())
    return f"\n\nTold beside the training data: {parts}."


def summary_rows(summaries: Sequence[Summary]) -> list[dict[str, object]]:
    """The summaries as flat dictionaries, accuracies in [0, 1], empty text where there is no difference."""
    return [
        {
            "method": summary.method,
            "epoch": summary.epoch,
            "seeds": summary.count,
            "mean": summary.mean,
            "sd": summary.sd,
            "difference": "" if summary.difference is None else summary.difference.mean,
            "low": "" if summary.difference is None else summary.difference.low,
            "high": "" if summary.difference is None else summary.difference.high,
        }
        for summary in summaries
    ]
