"""The folder of an experiment: settings that all its commands share, and results as lines of JSON."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from law_lightning.data import CorruptionRecord

RESULTS = "results.jsonl"
NOISE = "corruption.pt"


def digest_of(content: Any) -> str:
    """A short digest of settings, or of a file's bytes."""
    data = content if isinstance(content, bytes) else json.dumps(content, sort_keys=True).encode()
    return hashlib.sha256(data).hexdigest()[:16]


def write_once(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file whole or not at all; several commands at a time may write the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.partial")
    write(part)
    part.replace(path)


def check_settings(path: Path, settings: dict[str, Any]) -> str:
    """Write settings down, or check that they are those written there before.

    Args:
        path: of the file.
        settings: plain values.

    Returns:
        A digest of them.

    Raises:
        ValueError: the folder holds an experiment with other settings, or the file is damaged.
    """
    if path.is_file():
        try:
            before: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is damaged: choose another --out.") from error
        names = sorted(before.keys() | settings.keys())
        other = [f"{name} {before.get(name)}, not {settings.get(name)}" for name in names
                 if before.get(name) != settings.get(name)]  # fmt: skip
        if other:
            raise ValueError(
                f"{path.parent} was begun with other settings: {'; '.join(other)}. Give the same ones, or choose "
                "another --out."
            )
    else:
        content = json.dumps(settings, indent=1)
        write_once(path, lambda part: part.write_text(content, encoding="utf-8"))
    return digest_of(settings)


def keep_noise(folder: Path, record: CorruptionRecord) -> None:
    """Save what the noise did to the labels, for analysis; refuse a folder of other labels."""
    path = folder / NOISE
    if not path.is_file():
        write_once(path, record.save)
    elif not CorruptionRecord.load(path).labels.equal(record.labels):
        raise ValueError(f"{path} holds other noisy labels than those of --data, --noise and --noise-seed.")
