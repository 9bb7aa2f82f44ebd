"""Images in folders, one folder a class: the user's own, and ImageNet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from law_lightning.data.preparation import check_at_least
from law_lightning.data.vision import Statistics, Transform, VisionDataModule, standardized


class ImageFolderDataModule(VisionDataModule):
    """Images in ``root/train/<class>/`` and ``root/test/<class>/``, in any format that Pillow reads.

    Transforms get PIL images of three channels; in place of grey images deeper than 8 bits, tensors [3, H, W] in
    [0, 1], which torchvision's ``transforms.v2`` take as well. Their white is 65,535 (16 bits) or 1 (floats).

    Hidden files and folders are left out, and a warning counts files that Pillow does not read.

    Images of any size: a random part of a training image, and the centre of others, is scaled to
    ``image_size``, as for ImageNet.

    Args:
        root: The folder that holds ``train`` and ``test``.
        image_size: Side of the square that the network sees, in pixels.
        verify: Decode every file once before training, so that a damaged one is found then and not in a later epoch.
        **kwargs: Passed on to :class:`~law_lightning.data.vision.VisionDataModule`.
    """

    title = "The image folder"
    folders = ("train", "test")
    #: Mean and deviation of each channel of ImageNet's training images, of pixels in [0, 1].
    statistics: Statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

    def __init__(self, root: str | Path = "data", *, image_size: int = 224, verify: bool = True, **kwargs: Any) -> None:
        super().__init__(root, **kwargs)
        check_at_least(1, image_size=image_size)
        self.image_size = image_size
        self.verify = verify

    def load_part(self, train: bool) -> Any:
        """Return a torchvision ImageFolder, after decoding its files once if ``verify`` is set."""
        from tqdm.auto import tqdm

        from law_lightning.data.class_folders import ClassFolders, load_image

        folder = self.root.absolute() / self.folders[0 if train else 1]
        try:
            dataset = ClassFolders(folder)
        except FileNotFoundError as error:
            expected = " and ".join(f"{name}/<class>/*.jpg" for name in self.folders)
            raise FileNotFoundError(
                f"{self.title} is not in {self.root.absolute()}: there is no folder {folder}, or no images in it. "
                f"Expected are {expected} (any image format) below root (data.root=PATH). ({error})"
            ) from error
        if self.verify:
            for path, _ in tqdm(dataset.samples, desc="verify images", unit="image", leave=False):
                load_image(path, coarsely=True)
        return dataset

    def source(self, index: int) -> dict[str, Any]:
        """Where a sample of the training dataset comes from: its ``row``, and the ``file`` within ``root``."""
        found = super().source(index)
        images: Any = self._datasets["clean"]
        path, _ = images.source.samples[found["row"]]
        return found | {"file": str(Path(path).relative_to(self.root.absolute()))}

    def default_transforms(self) -> tuple[Transform, Transform]:
        """Return the transforms of training and evaluation images.

        A random part of a training image is resized, and mirrored with probability one half; of others the shorter
        side is resized to 8/7 of ``image_size`` and the centre taken.
        """
        from torchvision.transforms import v2

        size = self.image_size
        random, centre = v2.RandomResizedCrop(size), v2.CenterCrop(size)
        return (
            standardized(self.statistics, [random, v2.RandomHorizontalFlip()]),
            standardized(self.statistics, [v2.Resize(round(size * 8 / 7)), centre]),
        )


class ImageNetDataModule(ImageFolderDataModule):
    """ImageNet's 1,000 classes in ``root/train/<class>/`` and ``root/val/<class>/`` (Russakovsky et al., 2015).

    As in the LAW paper, a search trains on 100 images a class, and only the channels' means are subtracted. It
    validates on 25 others a class (a number that is not in the paper); the test data are ImageNet's validation images.

    Args:
        root: The folder that holds ``train`` and ``val``.
        **kwargs: Passed on to :class:`ImageFolderDataModule`; by default ``train_size=100``, ``val_size=25``,
            ``per_class=True`` and ``verify=False``, as decoding every file takes long here.
    """

    title = "ImageNet"
    folders = ("train", "val")
    #: The LAW paper has "standardization with mean channel subtraction" for ImageNet.
    statistics = (ImageFolderDataModule.statistics[0], (1.0, 1.0, 1.0))

    def __init__(self, root: str | Path = "data", **kwargs: Any) -> None:
        defaults = {"train_size": 100, "val_size": 25, "per_class": True, "verify": False}
        super().__init__(root, **defaults | kwargs)
