"""Small networks, and the Lightning module that trains any classifier with the paper's optimiser."""

from law_lightning.models.classifier import ImageClassifier
from law_lightning.models.networks import MLP, SmallCNN

__all__ = ["MLP", "ImageClassifier", "SmallCNN"]
