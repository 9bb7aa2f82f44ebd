"""The global random states of Python, NumPy and torch: taken, put back, and written into checkpoints."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def random_states() -> dict[str, Any]:
    """All global random states, as they are now. CUDA's only if it is in use: asking wakes it up."""
    return {
        "torch": torch.get_rng_state(),
        "torch.cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "numpy": np.random.get_state(legacy=True),  # noqa: NPY002 - the global state is what is meant
        "python": random.getstate(),
    }


def set_random_states(states: dict[str, Any]) -> None:
    """Put back what :func:`random_states` took."""
    torch.set_rng_state(states["torch"])
    if states["torch.cuda"]:
        torch.cuda.set_rng_state_all(states["torch.cuda"])
    np.random.set_state(states["numpy"])  # noqa: NPY002
    random.setstate(states["python"])


@contextmanager
def replaying(states: dict[str, Any]) -> Iterator[None]:
    """Run a block from ``states``; afterwards the random states are what they were before it."""
    before = random_states()
    set_random_states(states)
    try:
        yield
    finally:
        set_random_states(before)


def portable_states() -> dict[str, Any]:
    """All global random states as tensors and plain Python, for files read with ``weights_only=True``."""
    states = random_states()
    algorithm, keys, position, has_gauss, cached = states["numpy"]
    version, words, gauss = states["python"]
    return states | {
        "numpy": [algorithm, torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(cached)],
        "python": [version, list(words), gauss],
    }


def set_portable_states(states: dict[str, Any]) -> None:
    """Put back what :func:`portable_states` took."""
    algorithm, keys, position, has_gauss, cached = states["numpy"]
    version, words, gauss = states["python"]
    set_random_states(states | {
        "torch.cuda": states["torch.cuda"] if torch.cuda.is_available() else [],
        "numpy": (algorithm, keys.numpy().astype(np.uint32), position, has_gauss, cached),
        "python": (version, tuple(words), gauss),
    })  # fmt: skip
