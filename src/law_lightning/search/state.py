"""What a search has found so far: everything that its next round depends on, and nothing of a single worker."""

from __future__ import annotations

import copy
import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from law_lightning.agent import ReplayBuffer, StrategyAgent
from law_lightning.agent.replay import Transitions
from law_lightning.agent.strategy import save_strategy
from law_lightning.search.workers import packed, unpacked
from law_lightning.utilities.files import load_state, save_state, write_whole


@dataclass
class SearchState:
    """The state of a search between two rounds.

    Attributes:
        agent: the strategy's full state.
        best: that of the best strategy so far.
        best_gain: its mean gain in validation accuracy.
        history: a record per episode.
        episodes: the transitions of each episode, in order.
        plain: plain training's accuracies on the evaluation seeds.
    """

    agent: dict[str, Any]
    best: dict[str, Any]
    best_gain: float = float("-inf")
    history: list[dict[str, Any]] = field(default_factory=list)
    episodes: list[Transitions] = field(default_factory=list)
    plain: list[float] = field(default_factory=list)

    def buffer(self, rank: int = 0, size: int = 1) -> ReplayBuffer:
        """The transitions of every episode whose number leaves ``rank`` when divided by ``size``."""
        buffer = ReplayBuffer()
        own = self.episodes[rank::size]
        if any(len(transitions.reward) for transitions in own):
            buffer.extend(_joined(own))
        return buffer

    def as_plain(self) -> dict[str, Any]:
        """Tensors and plain Python: few tensors however many episodes there are, as each costs time to write."""
        counts = [len(transitions.reward) for transitions in self.episodes]
        columns = _joined(self.episodes)._asdict() if counts else {}
        return vars(self) | {"episodes": {"counts": counts, "transitions": columns}}

    @classmethod
    def from_plain(cls, state: dict[str, Any]) -> SearchState:
        """What :meth:`as_plain` gave."""
        counts, columns = state["episodes"]["counts"], state["episodes"]["transitions"]
        parts = [columns[name].split(counts) for name in Transitions._fields] if counts else []
        return cls(**state | {"episodes": [Transitions(*part) for part in zip(*parts, strict=True)]})

    def __getstate__(self) -> bytes:
        # Sent to another process one by one, each of hundreds of tensors would be an open file in both.
        return packed(self.as_plain())

    def __setstate__(self, state: bytes) -> None:
        vars(self).update(vars(self.from_plain(unpacked(state))))

    def check(self, agent: StrategyAgent) -> None:
        """Raise an error of any kind unless a search that teaches ``agent`` can go on from here."""
        for state in (self.agent, self.best):
            if other := agent.differences(state["hparams"]):
                raise OtherSearchError(f"its agent has {', '.join(other)}")
            copy.deepcopy(agent).load_full_state(state)
        if [record["episode"] for record in self.history] != list(range(len(self.episodes))) or not self.episodes:
            raise ValueError("its episodes are not those of its history")
        buffer = ReplayBuffer()
        buffer.load_state_dict({"capacity": None, "columns": _joined(self.episodes)._asdict()})
        if len(buffer):
            agent.check_fit(buffer.transitions())
        values = [value for record in self.history for value in record.values() if value is not None]
        if any(record.keys() != self.history[0].keys() for record in self.history) or not all(map(_is_number, values)):
            raise ValueError("its history holds more than numbers")
        if not all(_is_number(accuracy) and math.isfinite(accuracy) for accuracy in self.plain):
            raise ValueError("its accuracies are no numbers")
        if not _is_number(self.best_gain) or math.isnan(self.best_gain):
            raise ValueError("its best gain is no number")

    def write(self, folder: Path, settings: dict[str, str]) -> None:
        """Write ``search.pt``, and from the same state ``strategy.safetensors``, ``replay.pt`` and ``metrics.csv``.

        Args:
            folder: where to.
            settings: of the search; a search that goes on must share them.

        Raises:
            OSError: a file could not be written; ``search.pt`` is whole all the same, of now or of before.
        """
        save_strategy(folder / "strategy.safetensors", self.best)
        self.buffer().save(folder / "replay.pt")
        rows = io.StringIO(newline="")
        writer = csv.DictWriter(rows, fieldnames=list(self.history[0]))
        writer.writeheader()
        writer.writerows(self.history)
        write_whole(folder / "metrics.csv", rows.getvalue().encode())
        save_state(folder / "search.pt", "search", {"settings": settings, **self.as_plain()})

    @classmethod
    def read(cls, folder: Path, settings: dict[str, str], agent: StrategyAgent) -> SearchState | None:
        """Read what :meth:`write` wrote; None if nothing was.

        Args:
            folder: where it is.
            settings: of the search that goes on.
            agent: the strategy that it teaches; stays as it is.

        Raises:
            MisconfigurationException: it is of a search with other settings.
            ValueError: the file is damaged.
        """
        path = folder / "search.pt"
        if not path.exists():
            return None
        state = load_state(path, "search")
        theirs = state.pop("settings", None)
        if not isinstance(theirs, dict):
            raise ValueError(f"{path} is damaged: it does not say which search it is of. Choose another run_dir.")
        theirs = {"keep": repr("best")} | theirs  # files of before have none
        try:
            other = [name for name in settings if theirs.get(name) != settings[name]]
            if other:
                raise OtherSearchError(", ".join(other))
            found = cls.from_plain(state)
            found.check(agent)
        except OtherSearchError as error:
            raise MisconfigurationException(
                f"{folder} holds a search with other settings ({error}): resume it with the same ones, or choose "
                "another run_dir."
            ) from None
        except Exception as error:  # a state that another program made up can fail in any way
            raise ValueError(
                f"{path} is damaged or of another version of law-lightning ({type(error).__name__}: {error}): choose "
                "another run_dir."
            ) from error
        return found


class OtherSearchError(Exception):
    """Names the settings that another search has."""


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float))


def _joined(episodes: Sequence[Transitions]) -> Transitions:
    return Transitions(*map(torch.cat, zip(*episodes, strict=True)))
