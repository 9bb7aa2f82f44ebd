"""Callbacks that weight the samples of anyone's module."""

from law_lightning.callbacks.law import LAWCallback
from law_lightning.callbacks.weighting import WeightingCallback

__all__ = ["LAWCallback", "WeightingCallback"]
