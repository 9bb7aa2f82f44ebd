"""Files that hold state: tensors and plain Python only, a kind and a format number, written whole or not at all."""

from __future__ import annotations

import io
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

FORMAT = 1


def save_state(path: str | Path, kind: str, state: dict[str, Any]) -> None:
    """Write a state file; an interruption leaves the previous file as it was.

    Args:
        path: where to; its folder is made if needed.
        kind: what the state is of, checked on loading.
        state: tensors and plain Python.

    Raises:
        OSError: it cannot be written (the disk is full, say); the previous file is as it was.
    """
    content = io.BytesIO()
    torch.save({"kind": kind, "format": FORMAT, "state": state}, content)  # on a full disk torch raises no OSError
    write_whole(path, content.getbuffer())


def write_whole(path: str | Path, content: bytes | memoryview) -> None:
    """Write a file whole or not at all.

    Args:
        path: where to; its folder is made if needed.
        content: of the file.

    Raises:
        OSError: it cannot be written; the previous file is as it was.
    """
    path = Path(path)
    partial = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)  # noqa: PTH105 - atomic, also onto an existing file
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        before = "The file that was there before is as it was." if path.is_file() else "There was none before."
        raise OSError(error.errno, f"{path} could not be written: {error.strerror}. {before}") from error


def load_state(path: str | Path, kind: str) -> dict[str, Any]:
    """Read a state file without executing anything in it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, of another program or another kind, or of a later format.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No {kind} file at {path}.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError:
        raise
    except Exception as error:  # foreign bytes fail in every way: IndexError, struct.error, TypeError...
        raise ValueError(
            f"{path} is damaged or was not written by law-lightning ({type(error).__name__}): give the path of a "
            f"{kind} file."
        ) from error
    if not isinstance(content, dict) or content.get("kind") != kind or not isinstance(content.get("state"), dict):
        found = content.get("kind", "none") if isinstance(content, dict) else "none"
        raise ValueError(f"{path} is not a {kind} file of law-lightning (its kind: {found!r}).")
    if (found := content.get("format")) != FORMAT:
        newer = isinstance(found, int) and found > FORMAT
        raise ValueError(
            f"{path} has format {found!r}; this version of law-lightning reads format {FORMAT}"
            + (": install the newer version that wrote it." if newer else ".")
        )
    state: dict[str, Any] = content["state"]
    return state
