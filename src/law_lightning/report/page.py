"""One page of all runs, in a single file: no script, and no link to another file."""

from __future__ import annotations

import base64
import csv
import json
from collections.abc import Mapping, Sequence
from html import escape
from inspect import signature
from pathlib import Path
from typing import Any

from law_lightning.agent.strategy import StrategyAgent
from law_lightning.report.records import Outcome, read_numbers
from law_lightning.report.runs import Run

_HEADINGS = {"compare": "Comparisons", "search": "Searches"}
#: Rows that are shown of a table of suspects.
_SUSPECTS = 10
#: Letters from which on a cell of a table is broken into lines.
_LONG = 24
_HEAD = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>law-lightning: report</title><style>
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 0 auto; padding: 1rem; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid #8886; }
/* Shadows at the edges behind which there is more; what covers them moves with the content. */
pre, .table { overflow-x: auto; background: no-repeat local, no-repeat local, no-repeat, no-repeat;
  background-image:
    linear-gradient(to right, Canvas 30%, transparent), linear-gradient(to left, Canvas 30%, transparent),
    linear-gradient(to right, #888a, transparent), linear-gradient(to left, #888a, transparent);
  background-position: left, right; background-size: 3rem 100%, 3rem 100%, 1rem 100%, 1rem 100%; }
pre { border: 1px solid #8884; padding: 0.75rem; font-size: 0.8rem; }
table { border-collapse: collapse; font-size: 0.9rem; white-space: nowrap; }
th, td { padding: 0.25rem 1rem 0.25rem 0; text-align: left; border-bottom: 1px solid #8884; }
th { white-space: normal; vertical-align: bottom; }
td.text { white-space: normal; min-width: 9rem; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
img { max-width: 100%; height: auto; }
.figure img { width: 30rem; background: white; }
@media (prefers-color-scheme: dark) { .figure img { filter: invert(0.93) hue-rotate(180deg); } }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 28rem), 1fr)); gap: 0 2rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 1rem; }
dt { opacity: 0.75; }
dd { margin: 0; overflow-wrap: anywhere; }
</style></head>
<body>
<h1>law-lightning: report</h1>"""


def write_page(runs: Sequence[Run], figures: Mapping[str, Path], path: Path) -> Path:
    """Write the page.

    Args:
        runs: Comparisons, searches and trainings.
        figures: Figures of all trainings together, by their caption.
        path: The HTML file to write.
    """
    parts = [_HEAD]
    for kind, heading in _HEADINGS.items():
        sections = [_section(run) for run in runs if run.kind == kind]
        parts += [f"<h2>{heading}</h2>", *sections] if sections else []
    if trainings := [run for run in runs if run.kind == "train"]:
        parts += ["<h2>Trainings</h2>", _table(_trainings(trainings)), _notes(trainings)]
        parts += [_suspects(run) for run in trainings]
    if figures:
        parts.append('<h2>From stage to stage</h2><div class="figures">')
        parts += [
            f"<section><h3>{escape(caption)}</h3>{_image(figure, caption)}</section>"
            for caption, figure in figures.items()
        ]
        parts.append("</div>")
    path.write_text("\n".join([*parts, "</body></html>\n"]), encoding="utf-8")
    return path


def _section(run: Run) -> str:
    section = f"<section><h3>{escape(run.title or run.folder.name)}</h3>{_list(_facts(run))}"
    if run.kind == "compare":
        section += f"<pre>{escape((run.folder / 'summary.txt').read_text(encoding='utf-8'))}</pre>"
    picture = run.folder / f"{run.kind}.png"
    return section + (_image(picture, f"{run.kind}: {run.title}") if picture.is_file() else "") + "</section>"


def _list(facts: Mapping[str, Any]) -> str:
    known = {name: fact for name, fact in facts.items() if fact is not None}
    return f"<dl>{''.join(f'<dt>{name}</dt><dd>{escape(str(fact))}</dd>' for name, fact in known.items())}</dl>"


def _trainings(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """A row for each training."""

    def percent(outcome: Outcome | None, name: str) -> str:
        accuracy = getattr(outcome, name, None)
        return "" if accuracy is None else f"{100 * accuracy:.2f} %"

    return [
        {
            "training": run.title,
            "test accuracy, last epoch": percent(run.outcome, "acc_last"),
            "best epoch by validation": percent(run.outcome, "acc_best"),
            "seed": run.config.get("seed"),
            "epochs": run.group("trainer").get("max_epochs"),
            "date": run.date,
            "folder": run.folder,
        }
        for run in sorted(runs, key=lambda run: run.title)
    ]


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table that scrolls in its own box where the page is narrow."""

    def cell(value: Any) -> str:
        number = isinstance(value, int) or str(value).endswith(" %")
        kind = "number" if number else "text" if len(str(value)) > _LONG else "word"
        return f'<td class="{kind}">{escape(str(value))}</td>'

    head = "".join(f"<th>{escape(name)}</th>" for name in rows[0])
    body = "".join(f"<tr>{''.join(map(cell, row.values()))}</tr>" for row in rows)
    return f'<div class="table"><table><tr>{head}</tr>{body}</table></div>'


def _notes(runs: Sequence[Run]) -> str:
    """Where the trainings' validation samples come from, each note once."""
    notes = dict.fromkeys(note for run in runs if (note := _validation(run)))
    return "".join(_list({"validation": note}) for note in notes)


def _suspects(run: Run) -> str:
    """The samples of a training whose labels are likeliest wrong, if it wrote them down."""
    listed, sheet = run.folder / "suspects.csv", run.folder / "suspects.png"
    shown = ""
    if listed.is_file():
        with listed.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        of_all = f"<p>The first {_SUSPECTS} of {len(rows)} in {escape(str(listed))}.</p>"
        shown = _table(rows[:_SUSPECTS]) + (of_all if len(rows) > _SUSPECTS else "") if rows else ""
    if sheet.is_file():
        shown += _image(sheet, f"Suspects: {run.title}", "photographs")
    if not shown:
        return ""
    return (
        f"<section><h3>Labels that are likeliest wrong: {escape(f'{run.title} ({run.folder})')}</h3>{shown}</section>"
    )


def _facts(run: Run) -> dict[str, Any]:
    seed, count = run.config.get("first_seed", run.config.get("seed")), run.config.get("seeds")
    facts = {
        "folder": run.folder,
        "date": run.date,
        "seed" if count is None else "seeds": seed if count is None else f"{seed} to {seed + count - 1}",
        "epochs": run.group("trainer").get("max_epochs"),
        "strategy": run.config.get("strategy"),
        "validation": _validation(run),
    }
    if run.kind == "search":
        facts["episodes"] = run.group("search").get("episodes")
        facts["agent"] = _agent(run.group("agent"))
        facts["best gain"] = _best_gain(run.folder / "metrics.csv")
        checked = run.folder / "gain.txt"
        facts["on fresh seeds"] = checked.read_text(encoding="utf-8") if checked.is_file() else None
    return facts


def _validation(run: Run) -> str | None:
    """Where validation samples come from, if the data set has none of its own."""
    note = run.folder / "validation.txt"
    return note.read_text(encoding="utf-8") if note.is_file() else None


def _agent(agent: Mapping[str, Any]) -> str:
    """The options of the agent that are not StrategyAgent's own defaults."""
    usual = {name: json.dumps(each.default, default=str) for name, each in signature(StrategyAgent).parameters.items()}
    other = {name: value for name, value in agent.items() if usual.get(name) != json.dumps(value)}
    return ", ".join(f"{name} {other[name]}" for name in other if name not in ("_target_", "seed")) or "default"


def _best_gain(metrics: Path) -> str:
    """The greatest gain of a search's greedy strategy, and the episode it was measured after."""
    if not metrics.is_file():
        return f"unknown: {metrics.name} is missing"
    rows = [row for row in read_numbers(metrics, {"episode": float}) if row.get("gain") is not None]
    if not rows:
        return "not evaluated"
    best = max(rows, key=lambda row: row["gain"])  # the first of equals, as the search keeps it
    return f"{100 * best['gain']:+.2f} points of validation accuracy, after {best['episode'] + 1:.0f} episodes"


def _image(path: Path, caption: str, kind: str = "figure") -> str:
    """A figure, which is inverted on a dark page, or photographs, which are not."""
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return f'<p class="{kind}"><img src="data:image/png;base64,{data}" alt="{escape(caption)}"></p>'
