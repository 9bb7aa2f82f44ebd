"""Checks of what a user asked for, before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from law_lightning.agent.resolve import strategy_path


def strategy_file(strategy: str | None) -> Path:
    """The file of a strategy given by path or by name.

    Raises:
        ValueError: If none is given.
        FileNotFoundError: If there is no such file or name.
    """
    if strategy is None:
        raise ValueError(
            "No strategy is given: add strategy=PATH, the strategy.safetensors that law-search wrote into its run "
            "folder, or the name of a shipped strategy."
        )
    return strategy_path(strategy)


def comparison_seeds(first: int, count: int) -> range:
    """The seeds of a comparison.

    Raises:
        ValueError: If there are fewer than two, or the first is negative.
    """
    if count < 2:
        raise ValueError(f"seeds={count}: an interval needs at least 2 seeds; 5 or more are advised.")
    if first < 0:
        raise ValueError(f"first_seed={first}: seeds are whole numbers from 0 on.")
    return range(first, first + count)


def interval_confidence(confidence: float) -> float:
    """The confidence of an interval.

    Raises:
        ValueError: If it is not between 0 and 1.
    """
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence is {confidence}, but it must lie in (0, 1); 0.95 is usual.")
    return confidence


def own_processes(workers: int, trainer_options: dict[str, Any]) -> int:
    """How many trainings run at a time.

    Raises:
        ValueError: If it is less than one, or the trainings have processes of their own.
    """
    if workers < 1:
        raise ValueError(f"workers={workers}: at least one training runs at a time.")
    strategy, devices = trainer_options.get("strategy"), trainer_options.get("devices")
    several = devices not in (None, 1, "1", "auto") or strategy not in (None, "auto")
    if workers > 1 and several:
        raise ValueError(
            f"workers={workers} runs trainings of one device side by side, but trainer.devices={devices} and "
            f"trainer.strategy={strategy} give each several processes: use workers=1, or a single device."
        )
    return workers


def known_methods(methods: Sequence[str], known: Sequence[str]) -> list[str]:
    """The methods of a comparison.

    Raises:
        ValueError: If one is unknown or named twice, or there is none.
    """
    unknown = [method for method in methods if method not in known]
    if unknown:
        raise ValueError(f"methods={list(methods)}: there is no method {unknown[0]!r}; choose from {list(known)}.")
    if not methods or len(set(methods)) < len(methods):
        raise ValueError(f"methods={list(methods)}: name at least one method, and each only once.")
    return list(methods)
