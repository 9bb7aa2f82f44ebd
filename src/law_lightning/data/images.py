"""Images that are decoded one at a time: the dataset, its loader, and a check of all files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset


class ImageDataset(Dataset[tuple[Tensor, int]]):
    """Some images of a torchvision dataset, with labels of their own.

    Args:
        source: Gives ``(image, its own label)`` by index; that label is never passed on.
        rows: Which images, int64 [N].
        labels: Their labels, int64 [N].
        transform: Image to tensor; augmentation draws from torch's global random state.
    """

    def __init__(self, source: Dataset[Any], rows: Tensor, labels: Tensor, transform: Callable[[Any], Tensor]) -> None:
        if len(rows) != len(labels):
            raise ValueError(f"There are {len(rows)} images but {len(labels)} labels: give one label for each image.")
        self.source = source
        self.rows = rows.tolist()
        self.labels = labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.source[self.rows[index]][0]), self.labels[index]


def load_image(path: str | Path) -> Any:
    """Decode an image file to a PIL image of three channels.

    Raises:
        ValueError: The file is damaged or no image.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except FileNotFoundError:
        raise
    except Exception as error:  # damaged bytes can fail in any way inside a decoder
        raise ValueError(damaged_image(path)) from error


def damaged_image(path: str | Path) -> str:
    """The message for an image file that cannot be decoded."""
    return f"{path} cannot be read as an image: it is damaged or another kind of file. Replace or remove it."


def verify_images(paths: Sequence[str | Path]) -> None:
    """Decode every file once, coarsely where the format allows it, with a progress bar.

    Raises:
        ValueError: Some are damaged; the first ten are named.
    """
    from PIL import Image
    from tqdm.auto import tqdm

    damaged = []
    for path in tqdm(paths, desc="verify images", unit="image", dynamic_ncols=True, leave=False):
        try:
            with Image.open(path) as image:
                image.draft("RGB", (32, 32))  # JPEG: an eighth of the size, yet every byte is read
                image.load()
        except Exception:
            damaged.append(str(path))
    if damaged:
        more = "" if len(damaged) <= 10 else f", and {len(damaged) - 10} more"
        raise ValueError(
            f"{len(damaged)} of {len(paths)} image files are damaged or no images: {', '.join(damaged[:10])}{more}. "
            "Replace or remove them."
        )


def labels_of(dataset: Any) -> Tensor:
    """The labels of a torchvision dataset, int64 [N]."""
    return torch.as_tensor(dataset.targets, dtype=torch.int64)
