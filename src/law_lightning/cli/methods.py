"""The methods that law-compare and law-train can train with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.callbacks import Callback

from law_lightning import LAWCallback

#: Makes the callbacks that a method adds to a Trainer, anew for each training.
Method = Callable[[], list[Callback]]


def law(strategy: Path, options: dict[str, Any], mode: Literal["apply", "search"] = "apply") -> LAWCallback:
    """The callback of one training with a strategy.

    Args:
        strategy: Its file.
        options: Further arguments of LAWCallback.
        mode: "apply"; or "search" to train the reference too, for its loss and accuracy. The strategy is the same in
            both: it neither explores nor learns.
    """
    if mode == "search":
        options = options | {"explore": False, "learn": False, "keep": "target"}
    return LAWCallback(str(strategy), mode=mode, **options)


def method_table(strategy: Path, options: dict[str, Any]) -> dict[str, Method]:
    """Every method by its name: ``base`` is plain training, ``law`` weights with the strategy."""
    return {"base": list, "law": lambda: [law(strategy, options)]}
