"""Networks built from torchvision's, for images of about 32 x 32 pixels and for ImageNet; no pretrained weights.

Each function returns a network that maps images [B, channels, height, width] to logits [B, C].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from law_lightning.models.networks import check_images, init_he

IMAGENET_NAMES = ("resnet18", "resnet34", "resnet50", "mobilenet_v2")


def cifar_resnet18(in_shape: Sequence[int], num_classes: int) -> nn.Module:
    """Return ResNet-18 (He et al. 2016), widths 64 to 512, whose first layer keeps the size of the image.

    Sides are halved three times, rounded up, so images may be of any size; where one position remains, BatchNorm
    cannot train on a batch of one image.

    Args:
        in_shape: Shape of one image, (channels, height, width).
        num_classes: Number of classes C.

    Raises:
        ValueError: An argument is not allowed.
        ImportError: torchvision is not installed.
    """
    return _resnet_with_small_stem("resnet18", in_shape, num_classes)


def cifar_resnet101(in_shape: Sequence[int], num_classes: int) -> nn.Module:
    """Return ResNet-101, bottleneck widths 64 to 512; all else as :func:`cifar_resnet18`."""
    return _resnet_with_small_stem("resnet101", in_shape, num_classes)


def _resnet_with_small_stem(name: str, in_shape: Sequence[int], num_classes: int) -> nn.Module:
    """A ResNet that begins with a 3x3 convolution of stride 1, without max pooling."""
    from torchvision import models

    check_images(in_shape)
    network: Any = models.get_model(name, num_classes=num_classes)
    network.conv1 = models.resnet.conv3x3(in_shape[0], 64)
    network.maxpool = nn.Identity()
    init_he(network.conv1)
    resnet: nn.Module = network
    return resnet


def cifar_resnet32(in_shape: Sequence[int], num_classes: int) -> nn.Module:
    """Return the ResNet-32 of He et al. 2016, section 4.2: three groups of five basic blocks, widths 16, 32 and 64.

    The second and third group halve the image, with shortcuts without parameters (option A): every second position,
    and channels of zeros. For arguments and errors see :func:`cifar_resnet18`.
    """
    from torchvision.models import resnet

    check_images(in_shape)
    layers: list[nn.Module] = [resnet.conv3x3(in_shape[0], 16), nn.BatchNorm2d(16), nn.ReLU(inplace=True)]
    layers += [resnet.BasicBlock(16, 16) for _ in range(5)]
    for width in (32, 64):
        # Pooling over windows of one position; pairs of paddings for the width, the height and the channels.
        shortcut = nn.Sequential(nn.AvgPool2d(1, stride=2), nn.ZeroPad3d((0, 0, 0, 0, 0, width // 2)))
        layers.append(resnet.BasicBlock(width // 2, width, stride=2, downsample=shortcut))
        layers += [resnet.BasicBlock(width, width) for _ in range(4)]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, num_classes))
    init_he(network)
    return network


def cifar_vgg19(in_shape: Sequence[int], num_classes: int) -> nn.Module:
    """Return VGG-19 (Simonyan & Zisserman 2015): convolutions with BatchNorm, the global average, one linear layer.

    The five poolings leave one position of a 32 x 32 image, the smallest allowed. For arguments and errors see
    :func:`cifar_resnet18`.
    """
    from torchvision.models import vgg

    check_images(in_shape, smallest=32)
    features: Any = vgg.make_layers(vgg.cfgs["E"], batch_norm=True)
    features[0] = _with_channels(features[0], in_shape[0])
    network = nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, num_classes))
    init_he(network)
    return network


def imagenet_network(name: str, in_shape: Sequence[int], num_classes: int) -> nn.Module:
    """Return one of torchvision's networks for ImageNet.

    Args:
        name: "resnet18", "resnet34", "resnet50" (He et al. 2016) or "mobilenet_v2" (Sandler et al. 2018).
        in_shape: Shape of one image, (channels, height, width); the networks are made for (3, 224, 224).
        num_classes: Number of classes C.

    Raises:
        ValueError: An argument is not allowed.
        ImportError: torchvision is not installed.
    """
    from torchvision.models import get_model

    if name not in IMAGENET_NAMES:
        raise ValueError(f"name is {name!r}, but it must be one of {', '.join(IMAGENET_NAMES)}.")
    check_images(in_shape)
    network: Any = get_model(name, num_classes=num_classes)
    if name == "mobilenet_v2":
        network.features[0][0] = _with_channels(network.features[0][0], in_shape[0])
    else:
        network.conv1 = _with_channels(network.conv1, in_shape[0])
    changed: nn.Module = network
    return changed


def _with_channels(conv: nn.Conv2d, channels: int) -> nn.Conv2d:
    """A network's first convolution for this number of channels: a new one, unless it already fits."""
    if conv.in_channels == channels:
        return conv
    same: dict[str, Any] = {name: getattr(conv, name) for name in ("out_channels", "kernel_size", "stride", "padding")}
    new = nn.Conv2d(channels, **same, bias=conv.bias is not None)
    init_he(new)
    return new
