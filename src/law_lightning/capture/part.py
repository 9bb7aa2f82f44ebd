"""The parts that a weighting callback is composed of: what acts around a training step."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch

from law_lightning.capture.loss_capture import LossCapture


class Part:
    """One concern of a fit, held by a :class:`~law_lightning.callbacks.weighting.WeightingCallback`.

    The callback calls each of these methods on all of its parts, in the order of its ``parts``. A part overrides those
    it needs.

    Attributes:
        per_process: whether processes hold different states, so that a checkpoint keeps that of each.
    """

    per_process = False

    def start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """A fit begins, including a resumed one: clear the state of an earlier one."""

    def before_module_hook(self, hook: str, *args: Any) -> None:
        """The Trainer is about to call this hook of the user's module."""

    def before_step(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """``training_step`` is about to be called with these arguments."""

    def after_step(self, capture: LossCapture) -> None:
        """``training_step`` has returned; ``capture`` saw its losses."""

    def before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """The gradients are computed; the optimizer is about to step."""

    def after_batch(self, batch: Any, batch_idx: int) -> None:
        """The Trainer has finished the batch on the user's network."""

    def state_dict(self) -> dict[str, Any]:
        """What the rest of the fit depends on: tensors and plain Python."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state returned by :meth:`state_dict`; called after :meth:`start`.

        Raises:
            ValueError: the state does not belong to this fit.
        """

    def close(self) -> None:
        """Release what only the fit needed; may be called more than once."""
