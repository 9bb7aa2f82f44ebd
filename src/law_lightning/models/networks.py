"""Two small networks: an MLP for any input, a CNN for images from 8x8 pixels up."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn


def _check(num_classes: int, widths: Sequence[int], widths_name: str, dropout: float) -> None:
    if num_classes < 1:
        raise ValueError(f"num_classes is {num_classes}, but it must be at least 1.")
    if any(width < 1 for width in widths):
        raise ValueError(f"{widths_name} is {tuple(widths)}, but every width must be at least 1.")
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"dropout is {dropout}, but it must lie in [0, 1).")


class MLP(nn.Module):
    """Fully connected layers with ReLU, and optionally dropout, between them.

    Args:
        in_shape: Shape of one input; it is flattened.
        num_classes: Number of classes C.
        hidden: Width of each hidden layer; empty gives a linear classifier.
        dropout: Probability that a hidden unit is dropped in training.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        num_classes: int,
        hidden: Sequence[int] = (128, 128),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        _check(num_classes, hidden, "hidden", dropout)
        if len(in_shape) == 0 or any(side < 1 for side in in_shape):
            raise ValueError(f"in_shape is {tuple(in_shape)}, but it needs one or more sizes of at least 1.")
        layers: list[nn.Module] = [nn.Flatten()]
        width = math.prod(in_shape)
        for next_width in hidden:
            layers += [nn.Linear(width, next_width), nn.ReLU()]
            if dropout > 0:
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

    With the global average it hardly learns labels by heart; with ``hidden`` units on all positions it does.

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
        _check(num_classes, channels, "channels", dropout)
        if hidden < 0:
            raise ValueError(f"hidden is {hidden}, but it must be at least 1, or 0 for the global average.")
        if len(in_shape) != 3 or any(side < 1 for side in in_shape):
            raise ValueError(
                f"in_shape is {tuple(in_shape)}, but it must be (channels, height, width), each at least 1. "
                "For vectors use MLP."
            )
        if len(channels) == 0:
            raise ValueError("channels is empty, but the network needs at least one block.")
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
        if hidden > 0:
            self.hidden = nn.Sequential(nn.Flatten(), nn.Linear(width * height * breadth, hidden), nn.ReLU())
            width = hidden
        self.dropout = nn.Dropout(dropout) if dropout > 0 else nn.Identity()
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, [B, C], of images [B, channels, height, width]."""
        maps = self.blocks(x)
        features = maps.mean(dim=(2, 3)) if self.hidden is None else self.hidden(maps)
        logits: Tensor = self.head(self.dropout(features))
        return logits
