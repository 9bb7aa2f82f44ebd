"""Files that hold state: tensors and plain Python only, a kind and a format number, written whole or not at all."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import reprlib
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor
from torch.utils.serialization import config

FORMAT = 1
_KEY = "law_lightning"  # of the JSON in a safetensors file's header


def save_state(path: str | Path, kind: str, state: dict[str, Any]) -> None:
    """Write a state of tensors and plain Python with torch; ``kind`` names its content and is checked on loading.

    Raises:
        OSError: it cannot be written (the disk is full, say); the previous file is unchanged.
    """
    content = io.BytesIO()
    # load_state compares the checksums, which the calling program may have turned off.
    with config.patch("save.compute_crc32", True):  # type: ignore[attr-defined]
        torch.save({"kind": kind, "format": FORMAT, "state": state}, content)  # to a full disk it raises no OSError
    write_whole(path, content.getbuffer())


def save_tensors(path: str | Path, kind: str, state: dict[str, Any]) -> None:
    """Write a state in the safetensors format, which any program can read: tensors, and the rest as JSON.

    The keys of its nested dicts are text without a slash.

    Raises:
        OSError: it cannot be written; the previous file is unchanged.
    """
    flat = dict(_flattened(state))
    tensors = {name: leaf.contiguous() for name, leaf in flat.items() if isinstance(leaf, Tensor)}
    rest = {name: leaf for name, leaf in flat.items() if name not in tensors}
    content = {"kind": kind, "format": FORMAT, "state": rest, "crc32": _checksum(tensors, rest)}
    write_whole(path, safetensors.torch.save(tensors, {_KEY: json.dumps(content)}))


def write_whole(path: str | Path, content: bytes | memoryview) -> None:
    """Write a file whole or not at all; its folder is made if needed.

    Raises:
        OSError: it cannot be written; the previous file is unchanged.
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
        before = "The previous file is unchanged." if path.is_file() else "There was no previous file."
        raise OSError(error.errno, f"{path} could not be written: {error.strerror}. {before}") from error


def load_state(path: str | Path, kind: str) -> dict[str, Any]:
    """Read a state file of either format without executing anything in it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, of another program or another kind, or of a later format.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No {kind} file at {path}.")
    whole = path.read_bytes()
    try:
        content = _from_torch(whole) if whole.startswith(b"PK") else _from_safetensors(whole)
    except Exception as error:  # foreign bytes can fail in any way: IndexError, struct.error, TypeError...
        raise ValueError(
            f"{path} is damaged or was not written by law-lightning ({type(error).__name__}: "
            f"{str(error)[:200]}): give the path of a {kind} file."
        ) from error
    content = content if isinstance(content, dict) else {}
    if content.get("kind") != kind or not isinstance(content.get("state"), dict):
        its = reprlib.repr(content.get("kind", "none"))
        raise ValueError(f"{path} is not a {kind} file of law-lightning (its kind: {its}).")
    if (found := content.get("format")) != FORMAT:
        raise ValueError(
            f"{path} has format {reprlib.repr(found)}; this version of law-lightning reads format {FORMAT}: install "
            "the newer version that wrote it."
        )
    return dict(content["state"])


def _from_torch(whole: bytes) -> Any:
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        changed = archive.testzip()  # torch.load does not compare the checksums: it would return changed numbers
    if changed is not None:
        raise ValueError(f"{changed} in it was changed since it was written")
    return torch.load(io.BytesIO(whole), map_location="cpu", weights_only=True)


def _from_safetensors(whole: bytes) -> Any:
    tensors = safetensors.torch.load(whole)
    header = json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])
    content = json.loads(header.get("__metadata__", {}).get(_KEY, "{}"))
    if not content:
        return content
    if content["crc32"] != _checksum(tensors, content["state"]):
        raise ValueError("it was changed since it was written")
    state: dict[str, Any] = {}
    for name, leaf in (content["state"] | tensors).items():
        *above, key = name.split("/")
        inner = state
        for each in above:
            inner = inner.setdefault(each, {})
        inner[key] = leaf
    return content | {"state": state}


def _flattened(state: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested dicts under names like ``networks/actor.network.0.bias``; an empty dict is a leaf."""
    for name, value in state.items():
        if isinstance(value, dict) and value:
            yield from _flattened(value, f"{above}{name}/")
        else:
            yield f"{above}{name}", value


def _checksum(tensors: dict[str, Tensor], rest: dict[str, Any]) -> int:
    """A checksum of names, types, shapes and values."""
    return zlib.crc32(json.dumps(rest).encode(), zlib.crc32(safetensors.torch.save(tensors)))


def is_finite(state: Any) -> bool:
    """Whether all numbers in a nested state are finite."""
    if isinstance(state, dict):
        return all(map(is_finite, state.values()))
    if isinstance(state, (list, tuple)):
        return all(map(is_finite, state))
    if isinstance(state, Tensor):
        return bool(state.isfinite().all())
    return not isinstance(state, float) or math.isfinite(state)


def digest(tensors: dict[str, Tensor]) -> str:
    """A digest of tensors by name, bit for bit; the same in every process."""
    return hashlib.sha256(safetensors.torch.save(tensors)).hexdigest()
