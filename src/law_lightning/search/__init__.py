"""Search for a strategy over episodes (Algorithm 2)."""

from law_lightning.search.search import SearchResult, StrategySearch

__all__ = ["SearchResult", "StrategySearch"]
