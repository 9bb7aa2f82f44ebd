"""What the benchmarks share: a quiet process, the machine in words, and results as text."""

from __future__ import annotations

import ctypes
import logging
import os
import platform
import statistics
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import lightning as L
import torch

#: Logging, checkpoints and bars would be a share of the plain fit's time: without them ratios are higher.
QUIET: dict[str, Any] = {
    "devices": 1,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}


def quiet() -> None:
    """Silence warnings and Lightning's notes on every small training in this process."""
    warnings.filterwarnings("ignore")
    for logger in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(logger).setLevel(logging.ERROR)


def keep_freed_memory() -> None:
    """Tell glibc's allocator not to give memory back between steps; elsewhere this does nothing.

    Otherwise page faults are a large share of a CPU step, and whether a fit has them depends on chance: an allocation
    of the callback at the end of the heap can make the fit faster than the plain one.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(-3, 32 * 1024**2)  # M_MMAP_THRESHOLD, at its largest
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def machine(device: str = "cpu") -> str:
    """What this runs on, without its name."""
    where = f"{torch.get_num_threads()} of {os.cpu_count()} cores ({platform.machine()})"
    if device == "cuda":
        where += f", {torch.cuda.get_device_name()}"
    return f"{where}, torch {torch.__version__}, lightning {L.__version__}"


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Median [min, max]."""
    return f"{statistics.median(values):.{digits}f} [{min(values):.{digits}f}, {max(values):.{digits}f}]"


def rotated(names: Sequence[str], round_number: int) -> list[str]:
    """The names in the order of a round: each round starts with another, so that none always has the same place."""
    place = round_number % len(names)
    return [*names[place:], *names[:place]]


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as aligned text, with a rule under the first one, the heading."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])
