"""Statistics of the published data sets, and the end of every transform: from a PIL image to a tensor [C, H, W]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torchvision.transforms import v2

Statistics = tuple[Sequence[float], Sequence[float]]

#: Mean and deviation of each channel over the training images, of pixels in [0, 1].
CIFAR10_STATISTICS = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
CIFAR100_STATISTICS = ((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762))
IMAGENET_STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
#: "Standardization with mean channel subtraction" is what the LAW paper has for ImageNet.
IMAGENET_MEANS = (IMAGENET_STATISTICS[0], (1.0, 1.0, 1.0))
MNIST_STATISTICS = ((0.1307,), (0.3081,))
FASHION_MNIST_STATISTICS = ((0.2860,), (0.3530,))


def standardized(statistics: Statistics, before: Sequence[v2.Transform] = ()) -> v2.Compose:
    """Return the transform that standardises the pixels, after the transforms ``before`` on the PIL image."""
    import torch
    from torchvision.transforms import v2

    mean, std = statistics
    return v2.Compose([*before, v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)])
