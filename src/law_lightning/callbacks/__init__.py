"""Callbacks that weight the training samples of any LightningModule."""

from law_lightning.callbacks.co_teaching import CoTeachingCallback
from law_lightning.callbacks.l2rw import L2RWCallback
from law_lightning.callbacks.law import LAWCallback
from law_lightning.callbacks.meta_weight_net import MetaWeightNetCallback
from law_lightning.callbacks.weighting import WeightingCallback

__all__ = ["CoTeachingCallback", "L2RWCallback", "LAWCallback", "MetaWeightNetCallback", "WeightingCallback"]
