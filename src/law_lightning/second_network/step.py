"""What one network's step begins with, for another network to take the same one."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor
from torch.optim import Optimizer

from law_lightning.utilities.randomness import random_states


@dataclass
class StepRecord:
    """What a step of the user's network had.

    Attributes:
        args: arguments of ``training_step``, copied before the network saw them.
        kwargs: likewise.
        random: the global random states at its beginning.
        options: the optimizer's options (learning rates and the like) if it stepped, else None.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    random: dict[str, Any] = field(default_factory=random_states)
    options: list[dict[str, Any]] | None = None

    @classmethod
    def of(cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> StepRecord:
        """Copy the arguments of a step, for a step may change its batch in place."""
        return cls(*apply_to_collection((args, kwargs), Tensor, Tensor.clone))

    def copy(self) -> StepRecord:
        """A record for a step that may change its batch, where the batch is needed again."""
        args, kwargs = apply_to_collection((self.args, self.kwargs), Tensor, Tensor.clone)
        return replace(self, args=args, kwargs=kwargs)

    def note_options(self, optimizer: Optimizer) -> None:
        """Keep the options of the optimizer as they are just before it steps."""
        self.options = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
