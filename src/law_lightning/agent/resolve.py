"""Finding the strategy that an argument names: an agent, a file, or one that comes with the package."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from law_lightning.agent.strategy import StrategyAgent

#: The strategy of ``LAWCallback()``: the rule that it starts with is all of it until it learns.
GENERAL: dict[str, Any] = {"features": ("margin",), "init": "general", "renormalize": True}

_FOLDER = Path(__file__).parents[1] / "strategies"


def shipped_strategies() -> list[str]:
    """Names of the strategies that come with the package."""
    return sorted(path.stem for path in _FOLDER.glob("*.safetensors"))


def strategy_path(strategy: str | Path) -> Path:
    """The file of a strategy given by path, by the folder of its search or by name.

    Raises:
        FileNotFoundError: it is neither of them.
    """
    path, shipped = Path(strategy), shipped_strategies()
    for file in (path, path / "strategy.safetensors", path / "strategy.pt"):  # the last is of earlier versions
        if file.is_file():
            return file
    if str(strategy) in shipped:
        return _FOLDER / f"{strategy}.safetensors"
    raise FileNotFoundError(
        f"No strategy file at {path.absolute()}, and no shipped strategy of that name (there are: "
        f"{', '.join(['general', *shipped])}). law-search writes one, strategy.safetensors, into its run folder."
    )


def resolve_agent(
    agent: StrategyAgent | str | Path | None,
    num_stages: int | None,
    warmup_stages: int | None,
    features: Sequence[str] | None,
) -> StrategyAgent:
    """The agent that an argument names, checked against the stages and features asked for, if any.

    None is the rule ``general``, or with features a new agent that weighs those.

    Raises:
        ValueError: the strategy has other stages or features, or its file is no strategy's.
        FileNotFoundError: there is no such strategy.
    """
    source = "The given agent"
    if agent is None or agent == "general":
        options: dict[str, Any] = {"num_stages": num_stages, "warmup_stages": warmup_stages}
        options |= {"features": features} if agent is None and features is not None else GENERAL
        agent = StrategyAgent(**{name: value for name, value in options.items() if value is not None})
        source = "The rule general"
    elif isinstance(agent, (str, Path)):
        path = strategy_path(agent)
        agent, source = StrategyAgent.load(path), f"The strategy {path}"
    if not isinstance(agent, StrategyAgent):
        raise ValueError(f"agent must be a StrategyAgent, a path or the name of a shipped strategy, not {agent!r}.")
    if num_stages is not None and num_stages != agent.num_stages:
        raise ValueError(f"{source} has {agent.num_stages} stages, but num_stages={num_stages} was asked for.")
    if features is not None and tuple(features) != agent.features:
        raise ValueError(f"{source} weighs the features {agent.features}, but {tuple(features)} were asked for.")
    return agent
