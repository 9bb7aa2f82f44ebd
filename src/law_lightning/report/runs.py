"""Run folders, and what they hold."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import torch
from omegaconf import OmegaConf

from law_lightning.data.corruption import CorruptionRecord
from law_lightning.report.records import Outcome, read_numbers, read_outcomes

Kind = Literal["compare", "search", "train"]
#: Settings that differ between the runs of one experiment.
_OF_EACH_RUN = ("seed", "run_dir", "command", "logger")
#: The files that show which command wrote a folder; the first that is there decides.
_MARKS: dict[Kind, tuple[str, ...]] = {
    "compare": ("summary.txt",),
    "search": ("search.png",),
    "train": ("outcome.csv", "history.csv"),  # the first is of all trainings, the second of those with a strategy
}
#: What a second training did with the suspects of a first, in words.
CLEANED = {"drop": "without its suspects", "relabel": "with its suspects relabelled"}
#: Options that a title names, and how.
_NAMED = {
    "name": "{}", "rate": "rate {}", "classes": "classes {}", "share": "share {}", "imbalance": "imbalance {}",
    "train_size": "{} samples", "channels": "channels {}", "hidden": "layers of {}",
    "depth": "depth {}", "width": "width {}",
}  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One run folder.

    Attributes:
        folder: Where it is.
        kind: Which command wrote it.
        config: Its configuration.
        history: The records of its stages, for a training with a strategy.
        rare: The rare classes of its training data, ascending.
        outcome: Test accuracies of a training; None for one of an earlier version.
    """

    folder: Path
    kind: Kind
    config: dict[str, Any]
    history: list[dict[str, Any]] = field(default_factory=list)
    rare: tuple[int, ...] = ()
    outcome: Outcome | None = None

    def group(self, name: str) -> dict[str, Any]:
        """A group of the configuration; empty where it has none of that name."""
        return self.config.get(name) or {}

    @property
    def title(self) -> str:
        """Data, corruption and network in a few words; of a training also how it was weighted."""
        model = self.group("model")
        parts = [self.group("data"), self.group("corruption"), model.get("network") or model]
        words = ", ".join(_in_words(part) for part in parts if part)
        return f"{words[:1].upper()}{words[1:]}" + (f": {self.weighting}" if self.kind == "train" else "")

    @property
    def weighting(self) -> str:
        """How a training was weighted, in words."""
        strategy = self.config.get("strategy")
        if not strategy:
            again = CLEANED.get(str(self.config.get("cleaned")))
            return f"trained again {again}" if again else "plain training"
        path = Path(str(strategy))
        beside = " with a reference" if self.config.get("reference") else ""
        return f"strategy {path.parent if path.stem == 'strategy' else path}{beside}"  # a search's folder names it

    @property
    def settings(self) -> str:
        """All settings but those that differ between the runs of one experiment."""
        return json.dumps({key: self.config[key] for key in sorted(self.config) if key not in _OF_EACH_RUN})

    @property
    def date(self) -> str:
        """When it began; of a run of an earlier version when its file was written, which copying may change."""
        noted = self.folder / "date.txt"
        if noted.is_file():
            return noted.read_text(encoding="utf-8").strip()
        mark = next(file for name in _MARKS[self.kind] if (file := self.folder / name).is_file())
        return f"{datetime.fromtimestamp(mark.stat().st_mtime):%Y-%m-%d %H:%M} (of its file)"


def find_runs(paths: Iterable[Path], rare: Sequence[int] | None = None) -> list[Run]:
    """Read all run folders that are, or lie below, the given ones: comparisons, then searches, then trainings.

    Args:
        paths: Folders.
        rare: The rare classes; None finds them in what each run's corruption left of the classes.

    Raises:
        FileNotFoundError: A folder does not exist.
        ValueError: Nothing below one is a finished run, a file is damaged, or a rare class is not in the data.
    """
    runs: dict[Path, Run] = {}
    for path in paths:
        if not path.is_dir():
            raise FileNotFoundError(f"There is no run folder {path.absolute()}: check runs=.")
        found = [run for file in sorted(path.rglob("config.yaml")) if (run := _read(file.parent, rare))]
        if not found:
            raise ValueError(
                f"Nothing in {path.absolute()} can be reported: it contains no finished run of law-search, "
                "law-compare or law-train."
            )
        runs |= {run.folder.resolve(): run for run in found}
    return sorted(runs.values(), key=lambda run: (list(_MARKS).index(run.kind), str(run.folder)))


def _read(folder: Path, rare: Sequence[int] | None) -> Run | None:
    kind = next((kind for kind, marks in _MARKS.items() if any((folder / mark).is_file() for mark in marks)), None)
    if kind is None:
        return None
    try:
        config = dict(OmegaConf.to_container(OmegaConf.load(folder / "config.yaml")))  # type: ignore[arg-type]
    except Exception as error:  # damaged text can fail in any way inside a parser
        raise ValueError(
            f"{folder / 'config.yaml'} cannot be read as a configuration: it is damaged. Leave its folder out."
        ) from error
    if kind != "train":
        return Run(folder, kind, config)
    outcome = read_outcomes(folder / "outcome.csv")[0] if (folder / "outcome.csv").is_file() else None
    if not config.get("strategy"):
        return Run(folder, kind, config, outcome=outcome)
    history = read_numbers(folder / "history.csv", {"accuracy": float, "weight_per_class": list})
    if rare is None:
        record = folder / "corruption.pt"
        rare = rare_classes(CorruptionRecord.load(record)) if record.is_file() else ()
    else:
        classes = len(history[-1]["weight_per_class"])
        if wrong := [index for index in rare if not 0 <= index < classes]:
            raise ValueError(f"rare names class {wrong[0]}, but {folder} has the {classes} classes 0 to {classes - 1}.")
    return Run(folder, kind, config, history, tuple(sorted(rare)), outcome)


def rare_classes(record: CorruptionRecord) -> list[int]:
    """The classes of which less than half as many samples are left as of the middle class (the median)."""
    counts = torch.bincount(record.true_labels)
    return (counts < counts.double().median() / 2).nonzero().flatten().tolist()


def _in_words(part: dict[str, Any]) -> str:
    if inner := part.get("corruptions"):
        return " and ".join(map(_in_words, inner))
    name = str(part.get("_target_", "")).rsplit(".", 1)[-1].removesuffix("DataModule")
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).replace("_", " ").split()
    listed = {key: part[key] for key in _NAMED if part.get(key) not in (None, 0, "auto")}
    shown = {key: ", ".join(map(str, each)) if isinstance(each, list) else each for key, each in listed.items()}
    options = ", ".join(_NAMED[key].format(each) for key, each in shown.items())
    return " ".join(word if word.isupper() else word.lower() for word in words) + (f" ({options})" if options else "")
