"""Run folders, and what they hold."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import torch
from omegaconf import OmegaConf

from law_lightning.data.corruption import CorruptionRecord
from law_lightning.report.history import read_history

Kind = Literal["compare", "search", "train"]
_OF_EACH_RUN = ("seed", "run_dir", "logger")
#: The file that tells which command wrote a folder; the first that is there decides.
_MARKS: dict[Kind, str] = {"compare": "summary.txt", "search": "search.png", "train": "history.csv"}


@dataclass(frozen=True)
class Run:
    """One run folder.

    Attributes:
        folder: Where it is.
        kind: Which command wrote it.
        config: Its configuration.
        history: The records of its stages, for a training with a strategy.
        rare: The rare classes of its training data, ascending.
    """

    folder: Path
    kind: Kind
    config: dict[str, Any]
    history: list[dict[str, Any]] = field(default_factory=list)
    rare: tuple[int, ...] = ()

    @property
    def title(self) -> str:
        """Data, corruption and network in a few words."""
        model = self.config.get("model")
        network = model.get("network") if isinstance(model, dict) else None
        parts = [self.config.get("data"), self.config.get("corruption"), network]
        return ", ".join(_in_words(part) for part in parts if isinstance(part, dict))

    @property
    def settings(self) -> str:
        """All settings but those that tell the runs of one experiment apart: seed, folder and logger."""
        return json.dumps({key: self.config[key] for key in sorted(self.config) if key not in _OF_EACH_RUN})

    @property
    def date(self) -> str:
        """When it ended."""
        return f"{datetime.fromtimestamp((self.folder / _MARKS[self.kind]).stat().st_mtime):%Y-%m-%d %H:%M}"


def find_runs(paths: Iterable[Path], rare: Sequence[int] | None = None) -> list[Run]:
    """Read all run folders that are, or lie below, the given ones: comparisons, then searches, then trainings.

    Args:
        paths: Folders.
        rare: The rare classes; None finds them in what each run's corruption left of the classes.

    Raises:
        FileNotFoundError: A folder does not exist.
        ValueError: Nothing below one is a finished run, or a rare class is none of the data's.
    """
    runs: dict[Path, Run] = {}
    for path in paths:
        if not path.is_dir():
            raise FileNotFoundError(f"There is no run folder {path.absolute()}: check runs=.")
        found = [folder for folder in sorted({path, *(p.parent for p in path.rglob("config.yaml"))}) if _kind(folder)]
        if not found:
            raise ValueError(
                f"Nothing in {path.absolute()} can be reported: expected are folders that law-search, law-train (with "
                "a strategy) or law-compare have finished."
            )
        runs |= {folder.resolve(): _read(folder, rare) for folder in found}
    return sorted(runs.values(), key=lambda run: (list(_MARKS).index(run.kind), str(run.folder)))


def _kind(folder: Path) -> Kind | None:
    if not (folder / "config.yaml").is_file():
        return None
    return next((kind for kind, mark in _MARKS.items() if (folder / mark).is_file()), None)


def _read(folder: Path, rare: Sequence[int] | None) -> Run:
    kind = _kind(folder)
    assert kind is not None
    config = _read_config(folder / "config.yaml")
    history = read_history(folder / "history.csv") if kind == "train" else []
    classes = max((len(record["weight_per_class"]) for record in history), default=0)
    wrong = [index for index in rare or () if history and not 0 <= index < classes]
    if wrong:
        raise ValueError(f"rare names class {wrong[0]}, but {folder} has the {classes} classes 0 to {classes - 1}.")
    record = folder / "corruption.pt"
    if rare is None:
        rare = rare_classes(CorruptionRecord.load(record)) if kind == "train" and record.is_file() else ()
    return Run(folder, kind, config, history, tuple(sorted(rare)))


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config: Any = OmegaConf.to_container(OmegaConf.load(path))
    except Exception as error:  # damaged text can fail in any way inside a parser
        raise ValueError(f"{path} cannot be read as a configuration: it is damaged. Leave its folder out.") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds no configuration of a run. Leave its folder out.")
    return config


def rare_classes(record: CorruptionRecord) -> list[int]:
    """The classes of which less than half as many samples are left as of the middle class (the median)."""
    counts = torch.bincount(record.true_labels)
    return (counts < counts.double().median() / 2).nonzero().flatten().tolist()


def _in_words(part: dict[str, Any]) -> str:
    name = str(part.get("_target_", "")).rsplit(".", 1)[-1]
    shown = ("name", "rate", "classes", "share", "imbalance", "train_size", "channels", "hidden", "depth", "width")
    options = [f"{key} {part[key]}" for key in shown if part.get(key) not in (None, 0, "auto")]
    inner = [_in_words(each) for each in part.get("corruptions", ())]
    return f"{name} ({', '.join([*options, *inner])})" if options or inner else name
