"""Learning to Auto Weight (LAW) for PyTorch Lightning: learn how much each training sample should count.

Add ``callbacks=[LAWCallback()]`` to a Trainer that already works; see the README for the rest.
"""

from law_lightning import functional
from law_lightning.agent import ReplayBuffer, StrategyAgent
from law_lightning.callbacks import LAWCallback, WeightingCallback
from law_lightning.samples import Samples
from law_lightning.search import SearchResult, StrategySearch
from law_lightning.stages import StageSchedule, TrainingPhase

__version__ = "0.1.0"

__all__ = [
    "LAWCallback",
    "ReplayBuffer",
    "Samples",
    "SearchResult",
    "StageSchedule",
    "StrategyAgent",
    "StrategySearch",
    "TrainingPhase",
    "WeightingCallback",
    "functional",
]
