"""Files that hold state: tensors and plain Python only, a kind and a format number, written whole or not at all."""

from __future__ import annotations

import hashlib
import io
import math
import os
import pickletools
import re
import reprlib
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.serialization import config

FORMAT = 1

#: All that a pickle of tensors and plain Python names. What torch allows beyond that can fill the memory:
#: ``bytearray(n)``, say, or a sparse tensor of any size.
_NAMED = re.compile(r"torch\._utils _rebuild_tensor_v2|torch \w+Storage|collections OrderedDict")


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
    # load_state compares the checksums, which a program may have turned off.
    with config.patch("save.compute_crc32", True):  # type: ignore[attr-defined]
        torch.save({"kind": kind, "format": FORMAT, "state": state}, content)  # on a full disk it raises no OSError
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
        whole = path.read_bytes()
        _check_archive(whole)
        content = torch.load(io.BytesIO(whole), map_location="cpu", weights_only=True)
        _check_sizes(content, len(whole))
    except PermissionError:
        raise
    except Exception as error:  # foreign bytes fail in every way: IndexError, struct.error, TypeError...
        raise ValueError(
            f"{path} is damaged or was not written by law-lightning ({type(error).__name__}: "
            f"{str(error)[:200]}): give the path of a {kind} file."
        ) from error
    if not isinstance(content, dict) or content.get("kind") != kind or not isinstance(content.get("state"), dict):
        found = content.get("kind", "none") if isinstance(content, dict) else "none"
        raise ValueError(f"{path} is not a {kind} file of law-lightning (its kind: {reprlib.repr(found)}).")
    if (found := content.get("format")) != FORMAT:
        newer = isinstance(found, int) and found > FORMAT
        raise ValueError(
            f"{path} has format {reprlib.repr(found)}; this version of law-lightning reads format {FORMAT}"
            + (": install the newer version that wrote it." if newer else ".")
        )
    state: dict[str, Any] = content["state"]
    return state


def _check_archive(whole: bytes) -> None:
    """Raise an error unless a file is what torch.save writes for tensors and plain Python, every byte as written."""
    if not whole.startswith(b"PK\x03\x04"):  # torch would take it for a file of its former format, without checksums
        raise ValueError("it is no zip archive")
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        parts = archive.infolist()
        # torch.save does not compress, so nothing is larger in memory than in the file.
        compressed = any(part.compress_type != zipfile.ZIP_STORED for part in parts)
        if compressed or sum(part.file_size for part in parts) > len(whole):
            raise ValueError("it would unpack to more than there is in it")
        changed = archive.testzip()  # torch.load does not compare the checksums: it would return changed numbers
        if changed is not None:
            raise ValueError(f"{changed} in it was changed since it was written")
        (pickled,) = [part for part in parts if part.filename.endswith("/data.pkl")]
        for opcode, argument, _ in pickletools.genops(archive.read(pickled)):
            if opcode.name == "GLOBAL" and not _NAMED.fullmatch(str(argument)):
                raise ValueError(f"it holds more than tensors and plain Python: {argument}")


def _check_sizes(content: Any, most: int) -> None:
    """Raise an error if the tensors of a file are larger than it: one number may stand for any number of equal ones."""
    if sum(leaf.numel() * leaf.element_size() for leaf in _leaves(content) if isinstance(leaf, Tensor)) > most:
        raise ValueError("its tensors are larger than the file")


def is_finite(state: Any) -> bool:
    """Whether all numbers in a nested state are."""
    return all(
        bool(leaf.isfinite().all()) if isinstance(leaf, Tensor) else math.isfinite(leaf)
        for leaf in _leaves(state)
        if isinstance(leaf, (Tensor, float))
    )


def digest(state: Any) -> str:
    """A digest of nested dicts, lists, tuples, tensors and plain Python, bit for bit; the same in every process."""
    hashed, waiting = hashlib.sha256(), [state]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            waiting += [part for item in each.items() for part in item]
        elif isinstance(each, (list, tuple)):
            waiting += each
        elif isinstance(each, Tensor):
            hashed.update(f"{each.dtype}{tuple(each.shape)}".encode())
            hashed.update(each.detach().cpu().flatten().view(torch.uint8).numpy().tobytes() if each.numel() else b"")
        else:
            hashed.update(f"{each!r};".encode())
    return hashed.hexdigest()


def _leaves(state: Any) -> Iterator[Any]:
    """Everything in nested dicts, lists and tuples, each once: a few that hold each other may stand for very many."""
    waiting, seen = [state], {id(state)}
    while waiting:
        each = waiting.pop()
        if isinstance(each, (dict, list, tuple)):
            inner = each.values() if isinstance(each, dict) else each
            new = {id(one): one for one in inner if id(one) not in seen}
            seen.update(new)
            waiting.extend(new.values())
        else:
            yield each
