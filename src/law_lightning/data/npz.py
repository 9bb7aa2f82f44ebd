"""Reading labelled arrays from an ``.npz`` file, with every fault named."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Channels = Literal["auto", "first", "last"]
Array = npt.NDArray[Any]

_REQUIRED = ("train_x", "train_y", "test_x", "test_y")
_OPTIONAL = ("val_x", "val_y")
_CHANNEL_COUNTS = (1, 3, 4)

# An archive of a few megabytes can unpack to more than any memory holds, while images shrink to a tenth or so.
_MOST_UNPACKED = 2**30
_MOST_RATIO = 200


def read_npz(path: Path) -> dict[str, Array]:
    """Read ``train_x, train_y, test_x, test_y`` and, if there, ``val_x, val_y``; no pickle is ever opened.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged or no ``.npz``, lacks an array, or holds Python objects.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no data file at {path.absolute()}: check the path.")
    try:
        archive = np.load(path, allow_pickle=False)
    except Exception as error:  # damaged bytes can fail in any way inside zipfile and numpy
        raise ValueError(_damaged(path)) from error
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise ValueError(f"{path} is a single array, not an .npz file: write it with numpy.savez.")
    with archive:
        parts: list[zipfile.ZipInfo] = archive.zip.infolist()  # type: ignore[union-attr]
        unpacked = sum(part.file_size for part in parts)
        if unpacked > max(_MOST_UNPACKED, _MOST_RATIO * path.stat().st_size):
            raise ValueError(
                f"{path} would unpack to {unpacked / 2**30:.0f} GiB, more than {_MOST_RATIO} times its size, which no "
                "data do: write it again."
            )
        missing = [key for key in _REQUIRED if key not in archive.files]
        # One of the pair alone is a slip, not a wish to split the training data.
        if any(key in archive.files for key in _OPTIONAL):
            missing += [key for key in _OPTIONAL if key not in archive.files]
        if missing:
            raise ValueError(
                f"{path} lacks the arrays {missing}; it has {sorted(archive.files)}. Needed are "
                f"{list(_REQUIRED)}, and either both or none of {list(_OPTIONAL)}."
            )
        return {key: _read_array(archive, key, path) for key in (*_REQUIRED, *_OPTIONAL) if key in archive.files}


def _damaged(path: Path) -> str:
    return f"{path} cannot be read as an .npz file: it is damaged or another kind of file. Write it again."


def _read_array(archive: Any, key: str, path: Path) -> Array:
    try:
        array: Array = archive[key]
    except Exception as error:
        if "Object arrays" in str(error):
            raise ValueError(
                f"{key} in {path} holds Python objects, which are never loaded: save it as a plain array of "
                "numbers, all samples of one shape."
            ) from error
        raise ValueError(_damaged(path)) from error
    return array


def inputs_tensor(x: Array, name: str, channels: Channels = "auto") -> Tensor:
    """Turn stored inputs into a float32 tensor, images channels-first.

    Args:
        x: uint8, scaled here to [0, 1], or float: [N, D], [N, H, W], [N, H, W, C] or [N, C, H, W].
        name: What the array is called in messages.
        channels: Where images of four dimensions have theirs. "auto" takes an axis of 1, 3 or 4; when both
            axes could be it, it asks.

    Returns:
        float32 [N, D] or [N, C, H, W].
    """
    if x.dtype != np.uint8 and not np.issubdtype(x.dtype, np.floating):
        raise ValueError(f"{name} has dtype {x.dtype}, but inputs must be uint8 (0 to 255) or float: convert it.")
    if x.ndim not in (2, 3, 4) or 0 in x.shape:
        raise ValueError(
            f"{name} has shape {list(x.shape)}, but it must be [N, D], [N, H, W], [N, H, W, C] or "
            "[N, C, H, W], and not empty."
        )
    if x.ndim == 3:
        x = x[:, None]
    elif x.ndim == 4 and _channels_last(x.shape, name, channels):
        x = x.transpose(0, 3, 1, 2)
    if x.dtype == np.uint8:
        return torch.from_numpy(np.ascontiguousarray(x)).float().div(255)
    # A copy in the machine's own byte order: torch knows no other, nor wider floats.
    tensor = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))
    if not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"{name} has values that are not finite (NaN or infinite): remove or replace them.")
    return tensor


def _channels_last(shape: tuple[int, ...], name: str, channels: Channels) -> bool:
    if channels != "auto":
        return channels == "last"
    first, last = shape[1] in _CHANNEL_COUNTS, shape[3] in _CHANNEL_COUNTS
    if first and last:
        raise ValueError(
            f"{name} has shape {list(shape)}: its channels could be first or last. Say channels='first' or "
            "channels='last'."
        )
    return last


def labels_tensor(y: Array, name: str) -> Tensor:
    """Turn stored labels, integers [N] or [N, 1] and none negative, into int64 [N]."""
    if not np.issubdtype(y.dtype, np.integer):
        raise ValueError(f"{name} has dtype {y.dtype}, but labels must be integers: 0 for the first class, and so on.")
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1 or len(y) == 0:
        raise ValueError(f"{name} has shape {list(y.shape)}, but labels must be [N], one for each sample.")
    if y.min() < 0:
        raise ValueError(
            f"{name} has the negative label {y.min()}, but labels must count from 0: renumber the classes."
        )
    return torch.from_numpy(y.astype(np.int64))
