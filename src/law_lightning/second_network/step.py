"""What one network's step begins with, for another network to take the same one."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from law_lightning.utilities.randomness import random_states


@dataclass
class StepRecord:
    """What a step of the user's network had.

    Attributes:
        args: arguments of ``training_step``.
        kwargs: likewise.
        random: the global random states at its beginning.
        options: the optimizer's options (learning rates and the like) if it stepped, else None.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    random: dict[str, Any] = field(default_factory=random_states)
    options: list[dict[str, Any]] | None = None

    def copy(self) -> StepRecord:
        """A record with tensors of its own, for a step may change its batch in place."""
        args, kwargs = apply_to_collection((self.args, self.kwargs), Tensor, Tensor.clone)
        return replace(self, args=args, kwargs=kwargs)
