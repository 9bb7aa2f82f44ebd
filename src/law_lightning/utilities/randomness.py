"""The global random states of Python, NumPy and torch, and generators independent of them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def random_states() -> dict[str, Any]:
    """All global random states, as they are now; CUDA's only if it is in use, since asking would initialise it."""
    return {
        "torch": torch.get_rng_state(),
        "torch.cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "numpy": np.random.get_state(legacy=True),  # noqa: NPY002 - the global state is what is meant
        "python": random.getstate(),
    }


def set_random_states(states: dict[str, Any], now: dict[str, Any] | None = None) -> None:
    """Restore what :func:`random_states` returned.

    ``now`` are the present states, if they are known: where NumPy's is the same, it is not set, which is slow.
    """
    torch.set_rng_state(states["torch"])
    if states["torch.cuda"]:
        torch.cuda.set_rng_state_all(states["torch.cuda"])
    given, own = states["numpy"], None if now is None else now["numpy"]
    if own is None or given[2:] != own[2:] or not np.array_equal(given[1], own[1]):
        np.random.set_state(given)  # noqa: NPY002
    random.setstate(states["python"])


@contextmanager
def replaying(states: dict[str, Any] | None = None) -> Iterator[None]:
    """Run a block from ``states``, by default the present ones; afterwards the states are those from before it."""
    before = random_states()
    if states is not None:
        set_random_states(states, before)
    try:
        yield
    finally:
        set_random_states(before)


def derived_seed(*seeds: int) -> int:
    """A seed that depends on several together."""
    return int(np.random.SeedSequence([seed % 2**64 for seed in seeds]).generate_state(1)[0])


def reseed(generator: torch.Generator, *seeds: int) -> None:
    """Restart a generator from several seeds together."""
    (seed,) = np.random.SeedSequence([seed % 2**64 for seed in seeds]).generate_state(1, np.uint64)
    generator.manual_seed(int(seed))


def portable_states() -> dict[str, Any]:
    """All global random states as tensors and plain Python, for files read with ``weights_only=True``."""
    states = random_states()
    algorithm, keys, *rest = states["numpy"]
    version, words, gauss = states["python"]
    return states | {
        "numpy": [algorithm, torch.from_numpy(keys.astype(np.int64)), *rest],
        "python": [version, torch.tensor(words), gauss],  # plain numbers would be written one by one
    }


def set_portable_states(states: dict[str, Any]) -> None:
    """Restore what :func:`portable_states` returned.

    Raises:
        ValueError: NumPy's state is invalid. A position beyond its 624 words would crash the process.
    """
    algorithm, keys, position, *rest = states["numpy"]
    version, words, gauss = states["python"]
    if keys.shape != (624,) or not 0 <= position <= 624:
        raise ValueError("the random state of NumPy is invalid")
    set_random_states(states | {
        "torch.cuda": states["torch.cuda"][: torch.cuda.device_count()],  # this machine may have fewer
        "numpy": (algorithm, keys.numpy().astype(np.uint32), position, *rest),
        "python": (version, tuple(torch.as_tensor(words).tolist()), gauss),  # the first format had a list
    })  # fmt: skip
