"""torchvision's networks for ImageNet, without pretrained weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from torch import nn

from law_lightning.models.common import check_images, torchvision_models, with_channels

NAMES = ("resnet18", "resnet34", "resnet50", "mobilenet_v2")


def imagenet_network(name: str, in_shape: Sequence[int], num_classes: int) -> nn.Module:
    """Return a network of torchvision that maps images [B, channels, height, width] to logits [B, C].

    Args:
        name: "resnet18", "resnet34", "resnet50" (He et al. 2016) or "mobilenet_v2" (Sandler et al. 2018).
        in_shape: Shape of one image, (channels, height, width); the networks are made for (3, 224, 224).
        num_classes: Number of classes C.

    Raises:
        ValueError: An argument is not allowed.
        ImportError: torchvision is not installed.
    """
    if name not in NAMES:
        raise ValueError(f"name is {name!r}, but it must be one of {', '.join(NAMES)}.")
    check_images(in_shape, num_classes)
    network: Any = torchvision_models().get_model(name, num_classes=num_classes)
    if name == "mobilenet_v2":
        first = network.features[0]
        first[0] = with_channels(first[0], in_shape[0])
    else:
        network.conv1 = with_channels(network.conv1, in_shape[0])
    return cast(nn.Module, network)
