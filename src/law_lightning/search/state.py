"""What a search has found so far: all that its next round depends on, for any number of workers."""

from __future__ import annotations

import copy
import csv
import io
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

from law_lightning.agent import ReplayBuffer, StrategyAgent
from law_lightning.agent.former import save_strategy
from law_lightning.agent.replay import upgraded
from law_lightning.search.gain import Gain
from law_lightning.utilities.files import load_state, save_state, write_whole


@dataclass
class SearchState:
    """The state of a search between two rounds: tensors and plain Python.

    Attributes:
        agent: the strategy's full state.
        best: that of the best strategy so far.
        best_gain: its mean gain in validation accuracy.
        history: a record per episode.
        episodes: the transitions of all episodes: ``"counts"``, how many each has, and ``"transitions"``, the columns
            of a replay buffer with all of them in order. Few tensors, as each costs time to write.
        plain: plain training's accuracies on the evaluation seeds.
        gain: that of the best strategy on fresh seeds, the fields of a :class:`Gain`; None where it is not known.
        references: validation accuracies of the references of a seed pool, by seed and stage.
    """

    agent: dict[str, Any]
    best: dict[str, Any]
    best_gain: float = float("-inf")
    history: list[dict[str, Any]] = field(default_factory=list)
    episodes: dict[str, Any] = field(default_factory=lambda: {"counts": [], "transitions": {}})
    plain: list[float] = field(default_factory=list)
    gain: dict[str, Any] | None = None
    references: dict[int, dict[int, float]] = field(default_factory=dict)

    def add_episode(self, record: dict[str, Any], transitions: dict[str, Tensor]) -> None:
        """Add the next episode; it has no columns of transitions where it had no weighted stage."""
        self.history.append(record)
        self.episodes["counts"].append(len(transitions.get("reward", ())))
        if transitions:
            columns = self.episodes["transitions"] or {name: column[:0] for name, column in transitions.items()}
            joined = {name: torch.cat([column, transitions[name]]) for name, column in columns.items()}
            self.episodes["transitions"] = joined

    def found_gain(self) -> Gain | None:
        """The gain of the best strategy on fresh seeds."""
        return None if self.gain is None else Gain(**self.gain)

    def buffer(self, rank: int = 0, size: int = 1) -> ReplayBuffer:
        """The transitions of every episode whose number is ``rank`` modulo ``size``."""
        counts = torch.tensor(self.episodes["counts"], dtype=torch.long)
        own = torch.arange(len(counts)).repeat_interleave(counts) % size == rank
        columns = self.episodes["transitions"] if bool(own.any()) else {}
        buffer = ReplayBuffer()
        buffer.load_state_dict({"capacity": None, "columns": {name: column[own] for name, column in columns.items()}})
        return buffer

    def check(self, agent: StrategyAgent) -> None:
        """Raise an error of any kind unless a search that teaches ``agent`` can go on from here."""
        for state in (self.agent, self.best):
            copy.deepcopy(agent).load_full_state(state)
        counts, columns = self.episodes["counts"], self.episodes["transitions"]
        if len(counts) != len(self.history) or sum(counts) != len(columns["reward"] if columns else ()):
            raise ValueError("its transitions are not those of its history")
        if len(buffer := self.buffer()):
            agent.check_fit(buffer.transitions())
        accuracies = [*self.plain, *(each for record in self.references.values() for each in record.values())]
        if not all(isinstance(each, float) and math.isfinite(each) for each in accuracies):
            raise ValueError("its accuracies are not finite numbers")
        if not all(math.isfinite(number) for number in (self.gain or asdict(Gain(0, 0, 0, 0, 0, 0))).values()):
            raise ValueError("its gain is not of finite numbers")

    def write(self, folder: Path, settings: dict[str, str]) -> None:
        """Write ``search.pt``, and from it ``strategy.safetensors``, ``replay.pt``, ``metrics.csv`` and ``gain.txt``.

        Raises:
            OSError: a file could not be written; ``search.pt`` is complete all the same, the new or the previous one.
        """
        save_strategy(folder / "strategy.safetensors", self.best)
        self.buffer().save(folder / "replay.pt")
        rows = io.StringIO(newline="")
        writer = csv.DictWriter(rows, fieldnames=list(self.history[0]))
        writer.writeheader()
        writer.writerows(self.history)
        write_whole(folder / "metrics.csv", rows.getvalue().encode())
        if gain := self.found_gain():
            write_whole(folder / "gain.txt", f"{gain}\n".encode())
        save_state(folder / "search.pt", "search", {"settings": settings, **vars(self)})

    @classmethod
    def read(cls, folder: Path, settings: dict[str, str], agent: StrategyAgent) -> SearchState | None:
        """Read what :meth:`write` wrote, for a search of these settings that teaches ``agent``; None if nothing was.

        Raises:
            MisconfigurationException: it is of a search with other settings.
            ValueError: the file is damaged.
        """
        path = folder / "search.pt"
        if not path.exists():
            return None
        state = load_state(path, "search")
        try:
            theirs = {"keep": repr("best")} | state.pop("settings")  # earlier versions' files do not say what was kept
            other = [name for name in settings if theirs.get(name) != settings[name]]
            found = cls(**state)
            found.episodes["transitions"] = upgraded(found.episodes["transitions"])
            if unlike := agent.differences(found.agent["hparams"]) or agent.differences(found.best["hparams"]):
                other.append(f"its agent has {', '.join(unlike)}")
            if not other:
                found.check(agent)
        except Exception as error:  # a foreign state can fail in any way
            raise ValueError(
                f"{path} is damaged or of another version of law-lightning ({type(error).__name__}: {error}): choose "
                "another run_dir."
            ) from error
        if other:
            raise MisconfigurationException(
                f"{folder} holds a search with other settings ({', '.join(other)}): resume it with the same ones, or "
                "choose another run_dir."
            )
        return found
