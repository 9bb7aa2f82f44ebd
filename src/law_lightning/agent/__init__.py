"""The strategy model: DDPG from training phases to the parameters of a weighting function."""

from law_lightning.agent.exploration import Exploration
from law_lightning.agent.replay import ReplayBuffer, Transitions
from law_lightning.agent.strategy import StrategyAgent

__all__ = ["Exploration", "ReplayBuffer", "StrategyAgent", "Transitions"]
