"""MNIST and Fashion-MNIST, in torchvision's layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from law_lightning.data.transforms import FASHION_MNIST_STATISTICS, MNIST_STATISTICS, evaluation, small_image_training
from law_lightning.data.vision import Transform, VisionDataModule


class MNISTDataModule(VisionDataModule):
    """MNIST: 60,000 training and 10,000 test images of 28x28 grey pixels, ten digits (LeCun et al., 1998).

    Training images are standardised only; ``augment=True`` also pads by 4 and crops at random.

    Args:
        root: The folder that holds ``MNIST/raw`` (``FashionMNIST/raw``).
        augment: Augment the training images.
        **kwargs: Passed on to :class:`~law_lightning.data.vision.VisionDataModule`.
    """

    title = "MNIST"
    statistics = MNIST_STATISTICS
    mirror = False  # a mirrored digit is no digit

    def __init__(self, root: str | Path = "data", *, augment: bool = False, **kwargs: Any) -> None:
        super().__init__(root, **kwargs)
        self.augment = augment

    @staticmethod
    def dataset_class() -> Any:
        """The class in torchvision."""
        from torchvision.datasets import MNIST

        return MNIST

    def prepare_data(self) -> None:
        """Fetch the data set if that is wanted, and check that its files are there."""
        if self.download:
            self.dataset_class()(self.root, download=True)
        self._check_files()

    def load_part(self, train: bool) -> Any:
        """Return torchvision's dataset."""
        folder = self._check_files()
        try:
            return self.dataset_class()(self.root, train=train)
        except Exception as error:  # damaged bytes can fail in any way
            part = "train" if train else "t10k"
            raise ValueError(
                f"The {part}-* files in {folder} cannot be read as {self.title}: they are damaged. Delete them and "
                "fetch the data set again with download=True (data.download=true)."
            ) from error

    def default_transforms(self) -> tuple[Transform, Transform]:
        """Return the transforms of training and evaluation images."""
        plain = evaluation(self.statistics)
        return (small_image_training(self.statistics, 28, flip=self.mirror) if self.augment else plain), plain

    def _check_files(self) -> Path:
        dataset = self.dataset_class()
        folder: Path = self.root.absolute() / dataset.__name__ / "raw"
        names = [Path(name).stem for name, _ in dataset.resources]
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise FileNotFoundError(
                f"{self.title} is not whole in {folder}: expected are the files {', '.join(names)}; missing are "
                f"{', '.join(missing)}. Give the folder above {dataset.__name__} as root (data.root=PATH), or fetch "
                "it with download=True (data.download=true)."
            )
        return folder


class FashionMNISTDataModule(MNISTDataModule):
    """Fashion-MNIST: ten kinds of clothes, else as MNIST (Xiao et al., 2017). Augmented images are mirrored too."""

    title = "Fashion-MNIST"
    statistics = FASHION_MNIST_STATISTICS
    mirror = True

    @staticmethod
    def dataset_class() -> Any:
        """The class in torchvision."""
        from torchvision.datasets import FashionMNIST

        return FashionMNIST
