"""Learning to Auto Weight (LAW) for PyTorch Lightning: learn how much each training sample should count.

Add ``callbacks=[LAWCallback()]`` to a Trainer that already works; see the README for the rest.
"""

from law_lightning import functional
from law_lightning.agent import ReplayBuffer, StrategyAgent
from law_lightning.callbacks import (
    CoTeachingCallback,
    L2RWCallback,
    LAWCallback,
    MetaWeightNetCallback,
    WeightingCallback,
)
from law_lightning.capture.losses import weighted
from law_lightning.capture.samples import Samples
from law_lightning.search import SearchResult, StrategySearch
from law_lightning.stages.schedule import StageSchedule, TrainingPhase
from law_lightning.weighting import (
    ClassBalancedWeighting,
    FocalWeighting,
    GCEWeighting,
    MentorNetWeighting,
    SelfPacedWeighting,
)

__version__ = "0.2.0"

__all__ = [
    "ClassBalancedWeighting",
    "CoTeachingCallback",
    "FocalWeighting",
    "GCEWeighting",
    "L2RWCallback",
    "LAWCallback",
    "MentorNetWeighting",
    "MetaWeightNetCallback",
    "ReplayBuffer",
    "Samples",
    "SearchResult",
    "SelfPacedWeighting",
    "StageSchedule",
    "StrategyAgent",
    "StrategySearch",
    "TrainingPhase",
    "WeightingCallback",
    "functional",
    "weighted",
]
