"""VGG-19 for images of about 32 x 32 pixels (Simonyan & Zisserman 2015, with BatchNorm and one linear layer)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from law_lightning.models.common import check_images, init_he, torchvision_models, with_channels


def cifar_vgg19(in_shape: Sequence[int], num_classes: int) -> nn.Module:
    """Return the convolutions of VGG-19 (configuration E) with BatchNorm, the global average, and one linear layer.

    It maps images [B, channels, height, width] to logits [B, C]. The five poolings leave one position of a 32 x 32
    image.

    Args:
        in_shape: Shape of one image, (channels, height, width), sides of at least 32.
        num_classes: Number of classes C.

    Raises:
        ValueError: An argument is not allowed.
        ImportError: torchvision is not installed.
    """
    check_images(in_shape, num_classes, smallest=32)
    vgg = torchvision_models().vgg
    features: Any = vgg.make_layers(vgg.cfgs["E"], batch_norm=True)
    features[0] = with_channels(features[0], in_shape[0])
    network = nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, num_classes))
    init_he(network)
    return network
