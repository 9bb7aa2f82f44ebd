"""Reading labelled arrays from NumPy's files; errors name every fault."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Raise an error that names the file, whatever its reader raises: damaged bytes can fail in any way."""
    try:
        yield
    except Exception as error:
        raise ValueError(
            f"{path} cannot be read: it is damaged, another kind of file, or holds Python objects, which are never "
            f"loaded ({error}). Write it as an .npz file of plain arrays of numbers, with numpy.savez."
        ) from error


def load_numpy(path: Path) -> Array | dict[str, Array]:
    """Read an ``.npy`` file, or all arrays of an ``.npz`` file."""
    content: Any = np.load(path, allow_pickle=False)
    return content if isinstance(content, np.ndarray) else dict(content)


def read_npz(path: Path) -> dict[str, Array]:
    """Read ``train_x, train_y, test_x, test_y`` and, if there, ``val_x, val_y`` from an ``.npz`` file."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no data file at {path.absolute()}: check the path.")
    if path.suffix.lower() in (".csv", ".tsv", ".txt"):
        raise ValueError(
            f"{path} is a text file, but arrays are read from an .npz file. Read it with numpy.loadtxt or pandas, and "
            "write it with numpy.savez(FILE, train_x=..., train_y=..., test_x=..., test_y=...): docs/data.md has the "
            "lines."
        )
    with reading(path):
        arrays: Any = np.load(path, allow_pickle=False)
    if isinstance(arrays, np.ndarray):
        raise ValueError(f"{path} is a single array, not an .npz file: write it with numpy.savez.")
    with arrays:  # an array is read when it is asked for: others may be of any kind
        # One of the optional pair alone is a mistake, not a request to split the training data.
        needed = (*_REQUIRED, *_OPTIONAL) if any(key in arrays for key in _OPTIONAL) else _REQUIRED
        missing = [key for key in needed if key not in arrays]
        if missing:
            raise ValueError(
                f"{path} lacks the arrays {missing}; it has {sorted(arrays)}. Needed are {list(_REQUIRED)}, and either "
                f"both or none of {list(_OPTIONAL)}."
            )
        with reading(path):
            return {key: arrays[key] for key in needed}


def inputs_tensor(x: Array, name: str, channels: Channels = "auto") -> Tensor:
    """Turn stored inputs into a float32 tensor, images channels-first.

    Args:
        x: uint8, scaled here to [0, 1], or float: [N, D], [N, H, W], [N, H, W, C] or [N, C, H, W].
        name: The array's name in messages.
        channels: Where images of four dimensions have theirs; for "auto" see :func:`likely_channels`.
    """
    if x.dtype != np.uint8 and not np.issubdtype(x.dtype, np.floating):
        raise ValueError(f"{name} has dtype {x.dtype}, but inputs must be uint8 (0 to 255) or float: convert it.")
    if x.ndim not in (2, 3, 4) or 0 in x.shape:
        shapes = "[N, D], [N, H, W], [N, H, W, C] or [N, C, H, W]"
        raise ValueError(f"{name} has shape {list(x.shape)}, but it must be {shapes}, and not empty.")
    if x.ndim == 3:
        x = x[:, None]
    elif x.ndim == 4:
        where = likely_channels(x.shape[1:]) if channels == "auto" else channels
        if where is None:
            raise ValueError(
                f"{name} has shape {list(x.shape)}: its channels could be first or last. Say channels='first' or "
                "channels='last' (data.channels=)."
            )
        if where == "last":
            x = x.transpose(0, 3, 1, 2)
    # In the machine's own byte order, the only one that torch supports, and not in wider floats.
    tensor = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))
    if x.dtype == np.uint8:
        return tensor.div_(255)
    if not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"{name} has values that are not finite (NaN or infinite): remove or replace them.")
    return tensor


def likely_channels(shape: Sequence[int]) -> Channels | None:
    """Where the channels of an image [C, H, W] or [H, W, C] are; None where that is not certain.

    They are the only axis of 1, 3, 4 or at most half of both others, and shorter than both.
    """
    first, middle, last = shape
    sizes: dict[Channels, tuple[int, int]] = {"first": (first, min(middle, last)), "last": (last, min(first, middle))}
    found = [where for where, (size, others) in sizes.items() if size in (1, 3, 4) or 2 * size <= others]
    return found[0] if len(found) == 1 and sizes[found[0]][0] < sizes[found[0]][1] else None


def labels_tensor(y: Array, name: str) -> Tensor:
    """Turn stored labels, integers [N] or [N, 1] and none negative, into int64 [N]."""
    if not np.issubdtype(y.dtype, np.integer):
        raise ValueError(f"{name} has dtype {y.dtype}, but labels must be integers: 0 for the first class, and so on.")
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1 or len(y) == 0:
        raise ValueError(f"{name} has shape {list(y.shape)}, but labels must be [N], one for each sample.")
    if y.min() < 0:
        raise ValueError(f"{name} has the negative label {y.min()}, but classes count from 0: renumber them.")
    return torch.from_numpy(y.astype(np.int64))
