"""Weightings: functions from samples to weights, one a file."""

from law_lightning.weighting.base import Weighting, checked_weights
from law_lightning.weighting.law import LAWWeighting

__all__ = ["LAWWeighting", "Weighting", "checked_weights"]
