"""Networks, and the Lightning module that trains any classifier with the paper's optimiser."""

from law_lightning.models.cifar_resnet import cifar_resnet18, cifar_resnet32, cifar_resnet101
from law_lightning.models.cifar_vgg import cifar_vgg19
from law_lightning.models.classifier import ImageClassifier
from law_lightning.models.imagenet import imagenet_network
from law_lightning.models.networks import MLP, SmallCNN
from law_lightning.models.wide_resnet import WideResNet

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
