"""The global random states of Python, NumPy and torch: taken, put back, and written into checkpoints."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from lightning.fabric.utilities.seed import _collect_rng_states, _set_rng_states


def random_states() -> dict[str, Any]:
    """All global random states, as they are now."""
    states: dict[str, Any] = _collect_rng_states()
    return states


@contextmanager
def replaying(states: dict[str, Any]) -> Iterator[None]:
    """Run a block from ``states``; afterwards the random states are what they were before it."""
    before = _collect_rng_states()
    _set_rng_states(states)
    try:
        yield
    finally:
        _set_rng_states(before)


def portable_states() -> dict[str, Any]:
    """All global random states as tensors and plain Python, for files read with ``weights_only=True``."""
    algorithm, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    version, words, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "torch.cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [algorithm, torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(cached)],
        "python": [version, list(words), gauss],
    }


def set_portable_states(states: dict[str, Any]) -> None:
    """Put back what :func:`portable_states` took."""
    algorithm, keys, position, has_gauss, cached = states["numpy"]
    version, words, gauss = states["python"]
    _set_rng_states({
        "torch": states["torch"],
        "torch.cuda": states["torch.cuda"] if torch.cuda.is_available() else [],
        "numpy": (algorithm, keys.numpy().astype(np.uint32), position, has_gauss, cached),
        "python": (version, tuple(words), gauss),
    })  # fmt: skip
