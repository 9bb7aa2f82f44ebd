"""CIFAR-10 and CIFAR-100, in torchvision's layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from law_lightning.data.transforms import CIFAR10_STATISTICS, CIFAR100_STATISTICS, evaluation, small_image_training
from law_lightning.data.vision import Transform, VisionDataModule


class CIFAR10DataModule(VisionDataModule):
    """CIFAR-10: 50,000 training and 10,000 test images of 32x32 pixels, ten classes (Krizhevsky, 2009).

    As in the LAW paper: a search trains on 20,000 of the training images and validates on 5,000 others; training
    images are padded by 4, cropped to 32x32, mirrored, and standardised.

    Args:
        root: The folder that holds ``cifar-10-batches-py`` (``cifar-100-python``).
        train_size: Training images of the search split.
        val_size: Validation images of the search split.
        **kwargs: Passed on to :class:`~law_lightning.data.vision.VisionDataModule`.
    """

    title = "CIFAR-10"
    statistics = CIFAR10_STATISTICS

    def __init__(
        self, root: str | Path = "data", *, train_size: int | None = 20000, val_size: int = 5000, **kwargs: Any
    ) -> None:
        super().__init__(root, train_size=train_size, val_size=val_size, **kwargs)

    @staticmethod
    def dataset_class() -> Any:
        """The class in torchvision."""
        from torchvision.datasets import CIFAR10

        return CIFAR10

    def prepare_data(self) -> None:
        """Fetch the data set if that is wanted, and check that it is whole."""
        if self.download:
            self.dataset_class()(self.root, download=True)
        self._check_files()

    def load_part(self, train: bool) -> Any:
        """Return torchvision's dataset."""
        self._check_files()
        return self.dataset_class()(self.root, train=train)

    def default_transforms(self) -> tuple[Transform, Transform]:
        """Return the paper's transforms."""
        return small_image_training(self.statistics, 32), evaluation(self.statistics)

    def _check_files(self) -> None:
        from torchvision.datasets.utils import check_integrity

        dataset = self.dataset_class()
        folder = self.root / dataset.base_folder
        meta = [dataset.meta["filename"], dataset.meta["md5"]]
        files = [*dataset.train_list, *dataset.test_list, meta]
        missing = [name for name, _ in files if not (folder / name).is_file()]
        if missing:
            expected = ", ".join(name for name, _ in files)
            raise FileNotFoundError(
                f"{self.title} is not whole in {folder.absolute()}: expected are the files {expected}; missing are "
                f"{', '.join(missing)}. Give the folder above it as root (data.root=PATH), or fetch it with "
                "download=True (data.download=true)."
            )
        damaged = [name for name, md5 in files if not check_integrity(str(folder / name), md5)]
        if damaged:
            raise ValueError(
                f"{', '.join(damaged)} in {folder.absolute()} differ from {self.title}'s published files (by their "
                "MD5): delete them and fetch the data set again with download=True (data.download=true)."
            )


class CIFAR100DataModule(CIFAR10DataModule):
    """CIFAR-100: as CIFAR-10, with a hundred classes. For the arguments see :class:`CIFAR10DataModule`."""

    title = "CIFAR-100"
    statistics = CIFAR100_STATISTICS

    @staticmethod
    def dataset_class() -> Any:
        """The class in torchvision."""
        from torchvision.datasets import CIFAR100

        return CIFAR100
