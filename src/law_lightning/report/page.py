"""One page of all runs, in a single file: no script, and no link to another file."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from html import escape
from inspect import signature
from pathlib import Path
from typing import Any

from law_lightning.agent.strategy import StrategyAgent
from law_lightning.report.records import read_numbers
from law_lightning.report.runs import Run

_HEADINGS = {"compare": "Comparisons", "search": "Searches", "train": "Trainings with a strategy"}
_HEAD = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>law-lightning: report</title><style>
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid #8886; }
pre { overflow-x: auto; background: #8881; padding: 0.75rem; font-size: 0.8rem; }
img { max-width: 100%; height: auto; background: white; }
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
    if figures:
        parts.append("<h2>From stage to stage</h2>")
        parts += [f"<h3>{escape(caption)}</h3>{_image(figure, caption)}" for caption, figure in figures.items()]
    path.write_text("\n".join([*parts, "</body></html>\n"]), encoding="utf-8")
    return path


def _section(run: Run) -> str:
    facts = "".join(
        f"<dt>{name}</dt><dd>{escape(str(fact))}</dd>" for name, fact in _facts(run).items() if fact is not None
    )
    section = f"<section><h3>{escape(run.title or run.folder.name)}</h3><dl>{facts}</dl>"
    if run.kind == "compare":
        section += f"<pre>{escape((run.folder / 'summary.txt').read_text(encoding='utf-8'))}</pre>"
    picture = run.folder / f"{run.kind}.png"
    return section + (_image(picture, f"{run.kind}: {run.title}") if picture.is_file() else "") + "</section>"


def _facts(run: Run) -> dict[str, Any]:
    seed, count = run.config.get("first_seed", run.config.get("seed")), run.config.get("seeds")
    note = run.folder / "validation.txt"
    facts = {
        "folder": run.folder,
        "date": run.date,
        "seed" if count is None else "seeds": seed if count is None else f"{seed} to {seed + count - 1}",
        "epochs": run.group("trainer").get("max_epochs"),
        "strategy": run.config.get("strategy"),
        "validation": note.read_text(encoding="utf-8") if note.is_file() else None,
    }
    if run.kind == "search":
        facts["episodes"] = run.group("search").get("episodes")
        facts["agent"] = _agent(run.group("agent"))
        facts["best gain"] = _best_gain(run.folder / "metrics.csv")
        checked = run.folder / "gain.txt"
        facts["on fresh seeds"] = checked.read_text(encoding="utf-8") if checked.is_file() else None
    if run.kind == "train" and run.history:
        facts["training accuracy at the end"] = f"{100 * run.history[-1]['accuracy']:.2f} %"
    return facts


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


def _image(path: Path, caption: str) -> str:
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return f'<p><img src="data:image/png;base64,{data}" alt="{escape(caption)}"></p>'
