"""What the larger networks share: the check of their arguments, He's initialisation, and the way to torchvision."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from torch import nn


def torchvision_models() -> Any:
    """Return the module ``torchvision.models``, imported when the first network needs it.

    Raises:
        ImportError: torchvision is not installed.
    """
    try:
        return importlib.import_module("torchvision.models")
    except ImportError as error:
        raise ImportError(
            "This network is built from torchvision's parts, and torchvision cannot be imported: "
            f"pip install torchvision. ({error})"
        ) from error


def check_images(in_shape: Sequence[int], num_classes: int, smallest: int = 1) -> None:
    """Check the arguments that every network of images has.

    Args:
        in_shape: Shape of one image, (channels, height, width).
        num_classes: Number of classes C.
        smallest: The least height and width that the network can take.

    Raises:
        ValueError: ``in_shape`` is not the shape of an image, the image is too small, or there are no classes.
    """
    if len(in_shape) != 3 or any(side < 1 for side in in_shape):
        raise ValueError(
            f"in_shape is {tuple(in_shape)}, but it must be (channels, height, width), each at least 1. "
            "For vectors use MLP."
        )
    if min(in_shape[1:]) < smallest:
        raise ValueError(
            f"in_shape is {tuple(in_shape)}, but this network needs images of {smallest} x {smallest} pixels or more. "
            "Enlarge the images, or take another network."
        )
    if num_classes < 1:
        raise ValueError(f"num_classes is {num_classes}, but it must be at least 1.")


def init_he(network: nn.Module) -> None:
    """Draw every convolution anew from N(0, 2 / fan-out), its bias 0.

    The initialisation of He et al. 2015, "Delving Deep into Rectifiers", in the version that keeps the gradients'
    variance: torchvision's networks have the same.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def with_channels(conv: nn.Conv2d, channels: int) -> nn.Conv2d:
    """Return a network's first convolution for inputs of so many channels: freshly drawn, unless it already fits."""
    if conv.in_channels == channels:
        return conv
    same: dict[str, Any] = {name: getattr(conv, name) for name in ("out_channels", "kernel_size", "stride", "padding")}
    new = nn.Conv2d(channels, **same, bias=conv.bias is not None)
    init_he(new)
    return new
