"""What L2RW and Meta-Weight-Net share: clean batches, and gradients on them beside a training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.nn import Parameter
from torch.utils.data import DataLoader

from law_lightning.capture.part import Part
from law_lightning.second_network.clean_batches import CleanBatches
from law_lightning.second_network.shared_copy import Products, SharedCopy
from law_lightning.second_network.step import StepRecord

INSTEAD = {
    "forward": "Use products='double_backward', which needs no forward mode, or another operator (for attention, "
    "torch.nn.attention.sdpa_kernel(SDPBackend.MATH)).",
    "double_backward": "Use an operator that can be differentiated twice, or products='forward' if it has a "
    "forward-mode derivative.",
}


class CleanGradient(Part):
    """Gradients on clean data and of the step that is being taken, the means over all processes.

    Args:
        clean: a loader of data whose labels can be trusted; None takes the Trainer's first validation loader.
        batch_size: of the clean batches; None takes the training's.
        products: see :class:`SharedCopy`.
        seed: of the clean batches' order.
        name: of the callback, for errors.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self, clean: DataLoader[Any] | None, batch_size: int | None, products: Products, seed: int, name: str
    ) -> None:
        if products not in ("forward", "double_backward"):
            raise ValueError(f"products must be 'forward' or 'double_backward', not {products!r}.")
        if clean is not None and not isinstance(clean, DataLoader):
            raise ValueError(f"clean must be a DataLoader or None, not {clean!r}.")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"clean_batch_size must be at least 1, not {batch_size}.")
        self._clean, self._batch_size, self._products, self._seed, self._name = clean, batch_size, products, seed, name
        self._taken = 0

    # -- the course of a fit -------------------------------------------------------------------------------

    def start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """A fit begins: find the clean data.

        Raises:
            MisconfigurationException: there are none.
        """
        self._trainer, self._taken, self._epoch = trainer, 0, -1
        self._copy = SharedCopy(trainer, module, self._products)
        self._batches = CleanBatches(trainer, module, self._clean, self._batch_size, self._seed, self._name)

    def try_batch(self, module: L.LightningModule) -> None:
        """Find what would fail, before the first step.

        Raises:
            MisconfigurationException: the module's step fails on clean data, or it cannot be differentiated in the way
                that was chosen.
        """
        batch, name = self._batches.take(0), f"{type(module).__name__}.training_step"
        try:
            gradient = self._copy.gradient(batch)
        except Exception as error:
            raise MisconfigurationException(
                f"{self._name} gives clean batches to {name}, which failed on one: {error!r}. Clean batches must be "
                "like those of the training: give another loader as clean=..."
            ) from error
        try:
            self._copy.products(batch, gradient, check=True)
        except Exception as error:
            raise MisconfigurationException(
                f"{self._name} cannot differentiate {name} with products={self._products!r}: {error!r}. "
                + INSTEAD[self._products]
            ) from error
        self._batches.close()  # the training begins with the same batch

    def before_step(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note what the training's step begins with."""
        if self._epoch != self._trainer.current_epoch:
            self._epoch = self._trainer.current_epoch
            self._copy.renew()
        self._step, self._asked = StepRecord.of(args, kwargs), False

    @property
    def is_first(self) -> bool:
        """Whether this is asked for the first time in the present step: of several losses the first."""
        first, self._asked = not self._asked, True
        return first

    def close(self) -> None:
        """Drop the copy, the clean data and the processes that load them."""
        if "_batches" in vars(self):
            self._batches.close()
        for name in ("_trainer", "_copy", "_batches", "_step"):
            vars(self).pop(name, None)

    def state_dict(self) -> dict[str, Any]:
        """How many clean batches were taken, on which all later ones depend."""
        return {"taken": self._taken}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken."""
        self._taken = state["taken"]

    # -- within a step -------------------------------------------------------------------------------------

    def parameters(self) -> list[Parameter]:
        """The module's parameters that are trained: one tensor of a gradient for each."""
        return self._copy.parameters()

    def next_gradient(self, at: Sequence[Tensor] | None = None) -> list[Tensor]:
        """The gradient of the loss on the next clean batch.

        Args:
            at: parameters to take it at, as :meth:`parameters`; by default the module's.
        """
        batch = self._batches.take(self._taken)
        self._taken += 1
        return self.mean(self._copy.gradient(batch, at))

    def step_gradient(self, loss: Tensor) -> list[Tensor]:
        """The gradient of a loss [] of the training's own step, whose graph stays."""
        return self.mean(self._copy.gradient_of(loss, self.parameters(), retain_graph=True))

    def products(self, direction: Sequence[Tensor]) -> list[Tensor]:
        """Inner products of the gradients of this step's samples with a direction: [B] for each of its losses."""
        return self._copy.products(self._step, direction)

    def mean(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The mean of each tensor over all processes of the Trainer."""
        if self._trainer.world_size == 1:
            return list(tensors)
        flat = self._trainer.strategy.reduce(torch.cat([tensor.flatten() for tensor in tensors]), reduce_op="mean")
        parts = flat.split([tensor.numel() for tensor in tensors])
        return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]
