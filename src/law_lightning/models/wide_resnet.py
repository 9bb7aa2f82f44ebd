"""The wide residual network for images of about 32 x 32 pixels (Zagoruyko & Komodakis 2016)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from law_lightning.models.common import check_images, init_he


class WideBlock(nn.Module):
    """Twice BatchNorm, ReLU and 3x3 convolution, with dropout before the second; the input is added at the end.

    Where the shape changes, the activated input takes a 1x1 convolution in place of the identity.

    Args:
        channels: Channels of the input, I.
        out_channels: Channels of the output, O.
        stride: Stride of the first convolution.
        dropout: Probability that a value is dropped in training.
    """

    def __init__(self, channels: int, out_channels: int, stride: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        self.activation = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
        self.residual = nn.Sequential(
            nn.Conv2d(channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout) if dropout > 0 else nn.Identity(),
            nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1, bias=False),
        )
        same = stride == 1 and channels == out_channels
        self.projection = None if same else nn.Conv2d(channels, out_channels, kernel_size=1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, O, ceil(H / stride), ceil(W / stride)] for [B, I, H, W]."""
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
        self,
        in_shape: Sequence[int],
        num_classes: int,
        depth: int = 28,
        width: int = 10,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_images(in_shape, num_classes)
        if depth < 10 or depth % 6 != 4:
            raise ValueError(f"depth is {depth}, but it must be 6n + 4 for n blocks a group: 10, 16, 22, 28, ...")
        if width < 1:
            raise ValueError(f"width is {width}, but it must be at least 1.")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout is {dropout}, but it must lie in [0, 1).")
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
