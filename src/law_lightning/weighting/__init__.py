"""Weightings: functions from samples to weights, one a file."""

from law_lightning.weighting.base import BaseWeighting, Weighting, unweighted
from law_lightning.weighting.class_balanced import ClassBalancedWeighting
from law_lightning.weighting.focal import FocalWeighting
from law_lightning.weighting.gce import GCEWeighting
from law_lightning.weighting.law import LAWWeighting
from law_lightning.weighting.mentornet import MentorInputs, MentorNetWeighting, MentorNetwork
from law_lightning.weighting.self_paced import SelfPacedWeighting

__all__ = [
    "BaseWeighting",
    "ClassBalancedWeighting",
    "FocalWeighting",
    "GCEWeighting",
    "LAWWeighting",
    "MentorInputs",
    "MentorNetWeighting",
    "MentorNetwork",
    "SelfPacedWeighting",
    "Weighting",
    "unweighted",
]
