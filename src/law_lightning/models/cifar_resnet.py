"""Residual networks for images of about 32 x 32 pixels (He et al. 2016, "Deep Residual Learning").

Each maps images [B, channels, height, width] to logits [B, C]. Sides are halved three times (twice in ResNet-32),
rounded up, so images may be of any size; where one position remains, BatchNorm cannot train on a batch of one image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn

from law_lightning.models.common import check_images, init_he, torchvision_models


class ZeroPadShortcut(nn.Module):
    """The shortcut without parameters, option A of He et al. 2016: every so many positions, and channels of zeros.

    Args:
        channels: Channels of the input, I.
        out_channels: Channels of the output, O, at least I; those beyond I are zero.
        stride: Distance of the positions kept, along height and width.
    """

    def __init__(self, channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.padding = out_channels - channels
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, O, ceil(H / stride), ceil(W / stride)] for [B, I, H, W]."""
        kept = x[:, :, :: self.stride, :: self.stride]
        return F.pad(kept, (0, 0, 0, 0, 0, self.padding))


def cifar_resnet18(in_shape: Sequence[int], num_classes: int) -> nn.Module:
    """Return torchvision's ResNet-18, widths 64 to 512, whose first layer keeps the size of the image.

    Args:
        in_shape: Shape of one image, (channels, height, width).
        num_classes: Number of classes C.

    Raises:
        ValueError: An argument is not allowed.
        ImportError: torchvision is not installed.
    """
    return _with_small_stem("resnet18", in_shape, num_classes)


def cifar_resnet101(in_shape: Sequence[int], num_classes: int) -> nn.Module:
    """Return torchvision's ResNet-101, bottleneck widths 64 to 512, whose first layer keeps the size of the image.

    Args:
        in_shape: Shape of one image, (channels, height, width).
        num_classes: Number of classes C.

    Raises:
        ValueError: An argument is not allowed.
        ImportError: torchvision is not installed.
    """
    return _with_small_stem("resnet101", in_shape, num_classes)


def cifar_resnet32(in_shape: Sequence[int], num_classes: int) -> nn.Module:
    """Return the ResNet-32 of He et al. 2016, section 4.2: three groups of five basic blocks, widths 16, 32 and 64.

    The second and third group halve the image, with shortcuts of option A.

    Args:
        in_shape: Shape of one image, (channels, height, width).
        num_classes: Number of classes C.

    Raises:
        ValueError: An argument is not allowed.
        ImportError: torchvision is not installed.
    """
    check_images(in_shape, num_classes)
    resnet = torchvision_models().resnet
    width = 16
    layers: list[nn.Module] = [resnet.conv3x3(in_shape[0], width), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
    for next_width in (16, 32, 64):
        if next_width == width:
            layers.append(resnet.BasicBlock(width, width))
        else:
            shortcut = ZeroPadShortcut(width, next_width, stride=2)
            layers.append(resnet.BasicBlock(width, next_width, stride=2, downsample=shortcut))
        layers += [resnet.BasicBlock(next_width, next_width) for _ in range(4)]
        width = next_width
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes))
    init_he(network)
    return network


def _with_small_stem(name: str, in_shape: Sequence[int], num_classes: int) -> nn.Module:
    """A ResNet of torchvision that begins with a 3x3 convolution of stride 1, without max pooling."""
    check_images(in_shape, num_classes)
    models = torchvision_models()
    network: Any = models.get_model(name, num_classes=num_classes)
    network.conv1 = models.resnet.conv3x3(in_shape[0], 64)
    network.maxpool = nn.Identity()
    init_he(network.conv1)
    return cast(nn.Module, network)
