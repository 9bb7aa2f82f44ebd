"""Folders of images as a torchvision dataset: which folders are classes, which files are images, and their decoding."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from PIL import Image
from torch import Tensor
from torchvision.datasets import ImageFolder

#: What systems leave beside images, as hidden as names that begin with a dot.
_OF_SYSTEMS = {"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found", "Thumbs.db"}
#: Formats that Pillow names, but of which it has no decoder on every system.
_NO_DECODER = {"BUFR", "GRIB", "HDF5", "MPEG", "WMF"}
#: Files that stand beside images and are none: nothing is said of them.
_TEXT = {".txt", ".csv", ".tsv", ".json", ".xml", ".md", ".html", ".yaml", ".yml", ".log", ".ini", ".db"}
#: The tag of a TIFF file for the bits of a channel: Pillow opens one of 12 as 16.
_TIFF_BITS = 258


def load_image(path: str | Path, coarsely: bool = False) -> Any:
    """Decode an image file; ``coarsely`` at an eighth of the size, from all bytes.

    Returns:
        A PIL image of three channels; a grey image of more than 8 bits as a tensor in [0, 1], float32 [3, H, W], as
        PIL would cut its values off at 255.
    """
    try:
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):
                image.load()
                deep = image
            else:
                if coarsely:
                    image.draft("RGB", (32, 32))
                return image.convert("RGB")
    except (Image.DecompressionBombError, Image.DecompressionBombWarning, MemoryError) as error:
        raise ValueError(
            f"{path} is larger than Pillow opens ({error}). Scale it down, cut it into parts, or raise "
            "PIL.Image.MAX_IMAGE_PIXELS."
        ) from error
    except Exception as error:  # damaged bytes can fail in any way inside a decoder
        raise ValueError(f"{path} cannot be read as an image ({error}). Replace or remove it.") from error
    return _scaled(deep, path)


def _scaled(image: Any, path: str | Path) -> Tensor:
    """A grey image of whole numbers or floats, by the value of white to [0, 1], float32 [3, H, W]."""
    values, floats = np.asarray(image), image.mode == "F"
    short = image.mode != "I" or image.format in ("PNG", "PPM")  # of which Pillow opens 16 bits as 32
    bits = getattr(image, "tag_v2", {}).get(_TIFF_BITS, (16 if short else 32,))[0]
    white = 1 if floats else 2**bits - 1 if bits <= 16 else -1
    least, greatest = values.min(), values.max()
    if not 0 <= least <= greatest <= white:  # NaN too
        raise ValueError(
            f"{path} has {'float' if floats else f'{bits}-bit integer'} pixels from {least} to {greatest}, which do "
            "not say what value is white: save it with 8 or 16 bits, or as floats in [0, 1]."
        )
    return torch.from_numpy((values / white).astype(np.float32)).repeat(3, 1, 1)


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden, or a system's own, such as ``.ipynb_checkpoints`` and ``__MACOSX``."""
    return name.startswith(".") or name in _OF_SYSTEMS


@cache
def suffixes() -> frozenset[str]:
    """The suffixes of all files that Pillow decodes, in lower case."""
    kinds = Image.registered_extensions().items()
    return frozenset(suffix for suffix, kind in kinds if kind in Image.OPEN and kind not in _NO_DECODER)


class ClassFolders(ImageFolder):  # type: ignore[misc]
    """Images of any format that Pillow decodes, in ``root/<class>/`` or deeper, as :func:`load_image` reads them.

    Hidden files and folders are left out; one warning counts the files that are no images. Names of classes are in
    Unicode's form NFC, whichever form the folders have, so that the same classes of two roots are equal.

    Args:
        root: The folder that holds one folder a class.

    Raises:
        FileNotFoundError: There is no such folder, or no image in it.
        ValueError: A class has no image, or two folders have the same name in two forms.
    """

    def __init__(self, root: Path) -> None:
        self.ignored: Counter[str] = Counter()  # files by suffix
        super().__init__(root, loader=load_image, is_valid_file=self._is_image, allow_empty=True)
        ignored = ", ".join(
            f"{number} {suffix or 'without a suffix'}" for suffix, number in self.ignored.most_common(9)
        )
        empty = sorted(set(self.classes) - {self.classes[target] for target in set(self.targets)})
        told = f" Of other files there are: {ignored}." if ignored else ""
        if len(empty) == len(self.classes):
            raise FileNotFoundError(f"No folder in {root} holds an image.{told}")
        if empty:
            raise ValueError(
                f"{len(empty)} of the {len(self.classes)} classes in {root} have no image: {', '.join(empty[:10])}."
                f"{told} Add images, or remove the empty folders from all parts."
            )
        if ignored:
            rank_zero_warn(
                f"{self.ignored.total()} files in {root} are not used, as Pillow opens no such images: {ignored}. "
                "Convert them, or remove them if they are no images."
            )

    def find_classes(self, directory: str | Path) -> tuple[list[str], dict[str, int]]:
        """Return the names of the classes, and the index of each folder."""
        folders: dict[str, str] = {}
        for folder in sorted(each.name for each in os.scandir(directory) if each.is_dir() and not is_hidden(each.name)):
            name = unicodedata.normalize("NFC", folder)
            if name in folders:
                raise ValueError(
                    f"Two folders in {directory} have the name {name}, in two forms of Unicode: "
                    f"{folders[name]!a} and {folder!a}. Move the images of one into the other."
                )
            folders[name] = folder
        if not folders:
            raise FileNotFoundError(f"There is no class folder in {directory}.")
        classes = sorted(folders)
        return classes, {folders[name]: index for index, name in enumerate(classes)}

    def _is_image(self, path: str) -> bool:
        file = Path(path)
        if any(map(is_hidden, file.relative_to(self.root).parts)):
            return False
        suffix = file.suffix.lower()
        if suffix not in suffixes() and suffix not in _TEXT:
            self.ignored[suffix] += 1
        return suffix in suffixes()
