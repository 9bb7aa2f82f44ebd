"""Networks, and the Lightning module that trains any classifier with the paper's optimiser."""

from law_lightning.models.classifier import ImageClassifier
from law_lightning.models.networks import MLP, SmallCNN, WideResNet
from law_lightning.models.torchvision_networks import (
    cifar_resnet18,
    cifar_resnet32,
    cifar_resnet101,
    cifar_vgg19,
    imagenet_network,
)

__all__ = [
    "MLP",
    "ImageClassifier",
    "SmallCNN",
    "WideResNet",
    "cifar_resnet18",
    "cifar_resnet32",
    "cifar_resnet101",
    "cifar_vgg19",
    "imagenet_network",
]
