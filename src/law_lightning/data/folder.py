"""Images in folders, one folder a class: anyone's, and ImageNet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from law_lightning.data.images import load_image, verify_images
from law_lightning.data.transforms import (
    IMAGENET_MEANS,
    IMAGENET_STATISTICS,
    large_image_evaluation,
    large_image_training,
)
from law_lightning.data.vision import Transform, VisionDataModule


class ImageFolderDataModule(VisionDataModule):
    """Images in ``root/train/<class>/`` and ``root/test/<class>/``, in any format that Pillow reads.

    Images of any size: a random part of a training image, and the centre of others, is scaled to
    ``image_size``, as for ImageNet.

    Args:
        root: The folder that holds ``train`` and ``test``.
        image_size: Side of the square that the network sees, in pixels.
        verify: Decode every file once before training, so that a damaged one is found at once and not in some
            later epoch.
        **kwargs: Passed on to :class:`~law_lightning.data.vision.VisionDataModule`.
    """

    title = "The image folder"
    folders = ("train", "test")
    statistics = IMAGENET_STATISTICS

    def __init__(self, root: str | Path = "data", *, image_size: int = 224, verify: bool = True, **kwargs: Any) -> None:
        super().__init__(root, **kwargs)
        if image_size < 1:
            raise ValueError(f"image_size is {image_size}, but it must be at least 1.")
        if self.download:
            raise ValueError(f"download=True, but {self.title} cannot be fetched: put the images into {self.root}.")
        self.image_size = image_size
        self.verify = verify

    def load_part(self, train: bool) -> Any:
        """Return torchvision's ImageFolder."""
        from torchvision.datasets import ImageFolder

        folder = self._existing(self.folders[0] if train else self.folders[1])
        try:
            dataset = ImageFolder(folder, loader=load_image)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{folder} holds no classes with images: expected is one folder a class, with images in it ({error})"
            ) from error
        if not train:
            self._check_classes(dataset)
        if self.verify:
            verify_images([path for path, _ in dataset.samples])
        return dataset

    def default_transforms(self) -> tuple[Transform, Transform]:
        """Return the transforms of training and evaluation images."""
        return (
            large_image_training(self.statistics, self.image_size),
            large_image_evaluation(self.statistics, self.image_size),
        )

    def _existing(self, name: str) -> Path:
        folder = self.root.absolute() / name
        if not folder.is_dir():
            train, test = self.folders
            raise FileNotFoundError(
                f"{self.title} is not in {self.root.absolute()}: there is no folder {folder}. Expected are "
                f"{train}/<class>/*.jpg and {test}/<class>/*.jpg (any image format) below root (data.root=PATH)."
            )
        return folder

    def _check_classes(self, test: Any) -> None:
        from torchvision.datasets.folder import find_classes

        train_classes, _ = find_classes(self._existing(self.folders[0]))
        if train_classes != test.classes:
            differing = sorted(set(train_classes) ^ set(test.classes))
            raise ValueError(
                f"The folders {self.folders[0]} and {self.folders[1]} in {self.root.absolute()} hold different "
                f"classes: only one of them has {', '.join(differing[:10])}. Give both the same class folders."
            )


class ImageNetDataModule(ImageFolderDataModule):
    """ImageNet's 1,000 classes in ``root/train/<class>/`` and ``root/val/<class>/`` (Russakovsky et al., 2015).

    As in the LAW paper: a search trains on 100 images a class, and of the channels only their mean is taken off. It
    validates on 25 others a class, a number that the paper does not give; the test data are ImageNet's validation
    images.

    Args:
        root: The folder that holds ``train`` and ``val``.
        train_size: Training images of the search split.
        val_size: Validation images of the search split.
        per_class: Whether these are numbers of images a class.
        verify: Decode every file before training: this takes long here.
        **kwargs: Passed on to :class:`ImageFolderDataModule`.
    """

    title = "ImageNet"
    folders = ("train", "val")
    statistics = IMAGENET_MEANS

    def __init__(
        self,
        root: str | Path = "data",
        *,
        train_size: int | None = 100,
        val_size: int = 25,
        per_class: bool = True,
        verify: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, train_size=train_size, val_size=val_size, per_class=per_class, verify=verify, **kwargs)
