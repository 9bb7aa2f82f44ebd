"""Strategies that come with the package."""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parent / "strategies"


def shipped_strategies() -> list[str]:
    """Names of the strategies that come with the package."""
    return sorted(path.stem for path in _FOLDER.glob("*.pt"))


def strategy_path(strategy: str | Path) -> Path:
    """The file of a strategy given by path or by name.

    Raises:
        FileNotFoundError: it is neither a file nor the name of a shipped strategy.
    """
    path = Path(strategy)
    if path.is_file():
        return path
    if str(strategy) in shipped_strategies():
        return _FOLDER / f"{strategy}.pt"
    raise FileNotFoundError(
        f"No strategy file at {path.absolute()}, and no shipped strategy of that name (there are: "
        f"{', '.join(shipped_strategies()) or 'none'})."
    )
