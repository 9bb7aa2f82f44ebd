"""CIFAR-10, CIFAR-100, MNIST and Fashion-MNIST, in torchvision's layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from law_lightning.data.vision import Statistics, Transform, VisionDataModule, standardized


class SmallImagesDataModule(VisionDataModule):
    """A data set that torchvision downloads and checks. An augmented image is padded by 4 and cropped at random.

    Args:
        root: The folder of the data.
        download: Let torchvision download what is missing.
        augment: Augment the training images.
        **kwargs: Passed on to :class:`~law_lightning.data.vision.VisionDataModule`.
    """

    #: Name of the class in torchvision, and the folder below the root that it reads.
    dataset: str
    folder: str
    #: Mean and deviation of each channel over the training images, of pixels in [0, 1].
    statistics: Statistics
    size: int
    #: Whether an augmented image is also mirrored with probability one half.
    mirror = True

    def __init__(
        self, root: str | Path = "data", *, download: bool = False, augment: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(root, **kwargs)
        self.download = download
        self.augment = augment

    def prepare_data(self) -> None:
        """Download the data set if ``download`` is set."""
        if self.download:
            self._dataset_class()(self.root, download=True)

    def load_part(self, train: bool) -> Any:
        """Return torchvision's dataset, which is checked when it is opened."""
        dataset_class = self._dataset_class()
        try:
            return dataset_class(self.root, train=train)
        except Exception as error:  # damaged bytes can fail in any way
            raise ValueError(
                f"{self.title} cannot be read from {self.root.absolute() / self.folder} ({error}). Give the folder "
                f"that holds {self.folder} as root (data.root=PATH), or download {self.title} with download=True "
                "(data.download=true), after deleting what is damaged."
            ) from error

    def _dataset_class(self) -> Any:
        from torchvision import datasets

        return getattr(datasets, self.dataset)

    def default_transforms(self) -> tuple[Transform, Transform]:
        """Return the transforms of training and evaluation images."""
        from torchvision.transforms import v2

        mirror = [v2.RandomHorizontalFlip()] if self.mirror else []
        augment = [v2.RandomCrop(self.size, padding=4), *mirror] if self.augment else []
        return standardized(self.statistics, augment), standardized(self.statistics)


class CIFAR10DataModule(SmallImagesDataModule):
    """CIFAR-10: 50,000 training and 10,000 test images of 32x32 pixels, ten classes (Krizhevsky, 2009).

    As in the LAW paper, a search trains on 20,000 of the training images and validates on 5,000 others; training
    images are padded by 4, cropped to 32x32, mirrored, and standardised.

    Args:
        root: The folder that holds ``cifar-10-batches-py`` (``cifar-100-python``).
        train_size: Training images of the search split.
        **kwargs: Passed on to :class:`SmallImagesDataModule`.
    """

    title = "CIFAR-10"
    dataset = "CIFAR10"
    folder = "cifar-10-batches-py"
    statistics = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
    size = 32

    def __init__(self, root: str | Path = "data", *, train_size: int | None = 20000, **kwargs: Any) -> None:
        super().__init__(root, train_size=train_size, **kwargs)


class CIFAR100DataModule(CIFAR10DataModule):
    """CIFAR-100: as CIFAR-10, with a hundred classes. For the arguments see :class:`CIFAR10DataModule`."""

    title = "CIFAR-100"
    dataset = "CIFAR100"
    folder = "cifar-100-python"
    statistics = ((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762))


class MNISTDataModule(SmallImagesDataModule):
    """MNIST: 60,000 training and 10,000 test images of 28x28 grey pixels, ten digits (LeCun et al., 1998).

    Training images are standardised only; ``augment=True`` also pads by 4 and crops at random.

    Args:
        root: The folder that holds ``MNIST/raw`` (``FashionMNIST/raw``).
        augment: Augment the training images.
        **kwargs: Passed on to :class:`SmallImagesDataModule`.
    """

    title = "MNIST"
    dataset = "MNIST"
    folder = "MNIST/raw"
    statistics = ((0.1307,), (0.3081,))
    size = 28
    mirror = False  # a mirrored digit is no digit

    def __init__(self, root: str | Path = "data", *, augment: bool = False, **kwargs: Any) -> None:
        super().__init__(root, augment=augment, **kwargs)


class FashionMNISTDataModule(MNISTDataModule):
    """Fashion-MNIST: ten kinds of clothes, else as MNIST (Xiao et al., 2017). Augmented images are mirrored too."""

    title = "Fashion-MNIST"
    dataset = "FashionMNIST"
    folder = "FashionMNIST/raw"
    statistics = ((0.2860,), (0.3530,))
    mirror = True
