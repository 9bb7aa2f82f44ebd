"""Networks without torchvision: an MLP for any input, a small CNN and the wide residual network for images."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn


class MLP(nn.Module):
    """Fully connected layers with ReLU, and optionally dropout, between them.

    Args:
        in_shape: Shape of one input; it is flattened.
        num_classes: Number of classes C.
        hidden: Width of each hidden layer; empty gives a linear classifier.
        dropout: Probability that a hidden unit is dropped in training.
    """

    def __init__(
        self, in_shape: Sequence[int], num_classes: int, hidden: Sequence[int] = (128, 128), dropout: float = 0.0
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten()]
        width = math.prod(in_shape)
        for next_width in hidden:
            layers += [nn.Linear(width, next_width), nn.ReLU()]
            if dropout:
                layers.append(nn.Dropout(dropout))
            width = next_width
        self.layers = nn.Sequential(*layers, nn.Linear(width, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, [B, C], of inputs [B, *in_shape]."""
        logits: Tensor = self.layers(x)
        return logits


class SmallCNN(nn.Module):
    """Blocks of 3x3 convolution, BatchNorm, ReLU and 2x2 max pooling; then the global average and one layer.

    A block does not halve the image where a side is below 4 pixels: BatchNorm thus always has several
    positions to normalise over, even when the last batch of an epoch is a single image.

    With the global average it hardly memorises labels; with ``hidden`` units on all positions it does.

    Args:
        in_shape: Shape of one image, (channels, height, width).
        num_classes: Number of classes C.
        channels: Output channels of each block.
        dropout: Probability that an averaged channel (a hidden unit) is dropped in training, before the last layer.
        batch_norm: Whether blocks have BatchNorm; without it their convolutions have a bias.
        hidden: Units of a fully connected layer with ReLU that takes the place of the global average; 0 for none.
        strided: Halve the image by a convolution of stride 2 and not by pooling: a quarter of the work.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        num_classes: int,
        channels: Sequence[int] = (32, 64, 128),
        dropout: float = 0.0,
        batch_norm: bool = True,
        hidden: int = 0,
        strided: bool = False,
    ) -> None:
        super().__init__()
        check_images(in_shape)
        width, height, breadth = in_shape
        layers: list[nn.Module] = []
        for next_width in channels:
            halve = min(height, breadth) >= 4
            stride = 2 if halve and strided else 1
            layers.append(nn.Conv2d(width, next_width, kernel_size=3, stride=stride, padding=1, bias=not batch_norm))
            if batch_norm:
                layers.append(nn.BatchNorm2d(next_width))
            layers.append(nn.ReLU())
            if halve and not strided:
                layers.append(nn.MaxPool2d(2))
            if halve:  # a strided convolution rounds up, pooling down
                height, breadth = ((side + strided) // 2 for side in (height, breadth))
            width = next_width
        self.blocks = nn.Sequential(*layers)
        self.hidden: nn.Module | None = None
        if hidden:
            self.hidden = nn.Sequential(nn.Flatten(), nn.Linear(width * height * breadth, hidden), nn.ReLU())
            width = hidden
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, [B, C], of images [B, channels, height, width]."""
        maps = self.blocks(x)
        features = maps.mean(dim=(2, 3)) if self.hidden is None else self.hidden(maps)
        logits: Tensor = self.head(self.dropout(features))
        return logits


class WideBlock(nn.Module):
    """Twice BatchNorm, ReLU and 3x3 convolution, with dropout before the second; the input is added at the end.

    Where the shape changes, the activated input takes a 1x1 convolution in place of the identity: [B, I, H, W] becomes
    [B, O, ceil(H / stride), ceil(W / stride)].
    """

    def __init__(self, channels: int, out_channels: int, stride: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        self.activation = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
        self.residual = nn.Sequential(
            nn.Conv2d(channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1, bias=False),
        )
        same = stride == 1 and channels == out_channels
        self.projection = None if same else nn.Conv2d(channels, out_channels, kernel_size=1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the maps, [B, O, ...], of maps [B, I, H, W]."""
        active = self.activation(x)
        shortcut = x if self.projection is None else self.projection(active)
        total: Tensor = shortcut + self.residual(active)
        return total


class WideResNet(nn.Module):
    """WRN-depth-width of Zagoruyko & Komodakis 2016: three groups of pre-activation blocks, 16, 32 and 64 times width.

    The second and third group halve the image, sides rounded up, so images may be of any size.

    Args:
        in_shape: Shape of one image, (channels, height, width).
        num_classes: Number of classes C.
        depth: Number of convolutions, 6n + 4 for n blocks a group; the 1x1 convolutions of the shortcuts count.
        width: Factor of the channels, k in the paper.
        dropout: Probability that a value between a block's convolutions is dropped in training.

    Raises:
        ValueError: An argument is not allowed.
    """

    def __init__(
        self, in_shape: Sequence[int], num_classes: int, depth: int = 28, width: int = 10, dropout: float = 0.0
    ) -> None:
        super().__init__()
        check_images(in_shape)
        if depth < 10 or depth % 6 != 4:
            raise ValueError(f"depth is {depth}, but it must be 6n + 4 for n blocks a group: 10, 16, 22, 28, ...")
        num_blocks = (depth - 4) // 6
        channels = 16
        layers: list[nn.Module] = [nn.Conv2d(in_shape[0], channels, kernel_size=3, padding=1, bias=False)]
        for next_channels, stride in ((16 * width, 1), (32 * width, 2), (64 * width, 2)):
            layers.append(WideBlock(channels, next_channels, stride, dropout))
            layers += [WideBlock(next_channels, next_channels, dropout=dropout) for _ in range(num_blocks - 1)]
            channels = next_channels
        self.blocks = nn.Sequential(*layers, nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
        self.head = nn.Linear(channels, num_classes)
        init_he(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, [B, C], of images [B, channels, height, width]."""
        pooled = self.blocks(x).mean(dim=(2, 3))
        logits: Tensor = self.head(pooled)
        return logits


def init_he(network: nn.Module) -> None:
    """Reinitialise every convolution from N(0, 2 / fan-out), with a bias of 0.

    The initialisation of He et al. 2015, "Delving Deep into Rectifiers", in the version that keeps the gradients'
    variance: torchvision's networks have the same.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def check_images(in_shape: Sequence[int], smallest: int = 1) -> None:
    """Check the shape of one image, (channels, height, width), sides of at least ``smallest`` pixels."""
    if len(in_shape) != 3 or min(in_shape[1:]) < smallest:
        raise ValueError(
            f"in_shape is {tuple(in_shape)}, but this network needs images (channels, height, width) of {smallest} x "
            f"{smallest} pixels or more. Enlarge the images, or use another network (MLP for vectors)."
        )
