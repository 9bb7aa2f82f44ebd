"""The base of the data modules over torchvision's datasets: the paper's splits, and images decoded as needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset

from law_lightning.data.base import LabelledDataModule
from law_lightning.data.preparation import check_at_least, cut, permuted_indices

if TYPE_CHECKING:
    from torchvision.transforms import v2

Transform = Callable[[Any], Tensor]
Statistics = tuple[Sequence[float], Sequence[float]]


def standardized(statistics: Statistics, before: Sequence[v2.Transform] = ()) -> v2.Compose:
    """Return the transforms ``before`` of a PIL image, then standardising, which gives a tensor [C, H, W]."""
    from torchvision.transforms import v2

    mean, std = statistics
    return v2.Compose([*before, v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)])


def distinct(name: str) -> str:
    """A name for a message; one that may look like another also with all its characters spelled out."""
    return name if name.isascii() and name.isprintable() and name == name.strip() else f"{name} ({name!a})"


class ImageDataset(Dataset[tuple[Tensor, int]]):
    """The images ``rows`` [N] of a torchvision dataset with ``labels`` [N]; its own labels are never passed on."""

    def __init__(self, source: Dataset[Any], rows: Tensor, labels: Tensor, transform: Transform) -> None:
        self.source = source
        self.rows = rows.tolist()
        self.labels = labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.source[self.rows[index]][0]), self.labels[index]


@dataclass(frozen=True, eq=False)
class ImageSplits:
    """Which images of the data set's training part are trained on and validated on; the test part is used whole."""

    train: Dataset[Any]
    test: Any
    train_rows: Tensor
    train_y: Tensor
    val_rows: Tensor
    val_y: Tensor
    num_classes: int
    num_rows: int


class VisionDataModule(LabelledDataModule):
    """Serves images of a torchvision dataset, split as the paper does to search for a strategy and to test it.

    ``split="search"`` takes ``val_size`` images for validation and ``train_size`` others for training, both at
    random. ``split="holdout"`` trains on all but the same validation images. ``split="full"`` trains on all of them,
    and there is no validation data. The test part is the data set's own.

    A subclass says where the images come from, in :meth:`load_part`, and how they become tensors, in
    :meth:`default_transforms`.

    Args:
        root: The folder of the data.
        split: "search", "holdout" or "full".
        train_size: Training images of the search split; None takes all but the validation images.
        val_size: Validation images of the splits "search" and "holdout".
        per_class: Whether these two are numbers per class.
        split_seed: The split depends on it alone, not on the random state of a run.
        train_transform: From an image to a tensor [C, H, W], for training; None takes the paper's.
        eval_transform: The same for validation and test.
        **kwargs: Passed on to :class:`~law_lightning.data.base.LabelledDataModule`: ``batch_size``, ``corruption``,
            ``num_workers`` (decoding takes time: a few workers keep a GPU busy), ...
    """

    #: The data set's name in messages.
    title = "The data set"

    def __init__(
        self,
        root: str | Path = "data",
        *,
        split: Literal["search", "holdout", "full"] = "search",
        train_size: int | None = None,
        val_size: int = 5000,
        per_class: bool = False,
        split_seed: int = 0,
        train_transform: Transform | None = None,
        eval_transform: Transform | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if split not in ("search", "holdout", "full"):
            raise ValueError(f"split is {split!r}, but it must be 'search', 'holdout' or 'full'.")
        check_at_least(1, train_size=train_size, val_size=val_size)
        self.root = Path(root)
        self.split = split
        self.train_size = train_size
        self.val_size = val_size
        self.per_class = per_class
        self.split_seed = split_seed
        self.train_transform = train_transform
        self.eval_transform = eval_transform

    def load_part(self, train: bool) -> Any:
        """Return a torchvision dataset of images without a transform: the training part, or the test part."""
        raise NotImplementedError(f"{type(self).__name__} must define load_part().")

    def default_transforms(self) -> tuple[Transform, Transform]:
        """Return the transforms of training and evaluation images."""
        raise NotImplementedError(f"{type(self).__name__} must define default_transforms().")

    def load_splits(self) -> ImageSplits:
        """Load both parts and split the training part."""
        train, test = self.load_part(train=True), self.load_part(train=False)
        if train.classes != test.classes:
            differing = sorted(set(train.classes) ^ set(test.classes))
            raise ValueError(
                f"The training and the test part of {self.title} in {self.root.absolute()} hold different classes: "
                f"only one of them has {', '.join(map(distinct, differing[:10]))}. Give both the same classes."
            )
        labels = torch.as_tensor(train.targets, dtype=torch.int64)
        rows, val_rows = self._split(labels, len(train.classes))
        return ImageSplits(
            train, test, rows, labels[rows], val_rows, labels[val_rows], len(train.classes), len(labels)
        )  # fmt: skip

    def make_datasets(self, splits: ImageSplits, kept: Tensor, labels: Tensor) -> dict[str, Dataset[Any]]:
        """Decode the images when they are asked for; only training images are augmented."""
        augment, plain = self.default_transforms()
        augment, plain = self.train_transform or augment, self.eval_transform or plain
        rows, test_y = splits.train_rows[kept], torch.as_tensor(splits.test.targets)
        return {
            "train": ImageDataset(splits.train, rows, labels, augment),
            "clean": ImageDataset(splits.train, rows, labels, plain),
            "val": ImageDataset(splits.train, splits.val_rows, splits.val_y, plain),
            "test": ImageDataset(splits.test, torch.arange(len(test_y)), test_y, plain),
        }

    def _split(self, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
        """Return the rows of the training and of the validation images."""
        if self.split == "full":
            return torch.arange(len(labels)), torch.zeros(0, dtype=torch.int64)
        train_size = None if self.split == "holdout" else self.train_size
        order = permuted_indices(len(labels), self.split_seed)
        groups = {f"{self.title} has": order}
        if self.per_class:
            groups = {f"Class {c} of {self.title} has": order[labels[order] == c] for c in range(num_classes)}
        parts = [
            cut(rows, train_size, self.val_size, f"{what} {len(rows)} training images") for what, rows in groups.items()
        ]
        train, val = (torch.cat(rows) for rows in zip(*parts, strict=True))
        return order[torch.isin(order, train)], order[torch.isin(order, val)]  # in one order for all classes
