"""DNR, the duplicate network: a copy of the target that trains on the same batches with plain losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.optim import Optimizer

from law_lightning.capture.loss_capture import LossCapture
from law_lightning.capture.wrap import wrap
from law_lightning.second_network.second_network import SecondNetwork, StepRecord
from law_lightning.stages.statistics import StageStatistics
from law_lightning.utilities.randomness import random_states, replaying


class Reference(SecondNetwork):
    """Takes every step from the random states of the target's step, and so is plain training, bit for bit.

    Args:
        statistics: gets the gap between both networks' losses, step by step.
    """

    def __init__(self, statistics: StageStatistics) -> None:
        super().__init__()
        self._statistics = statistics
        self._target_loss: Tensor | None = None

    def start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """A fit begins; there is no copy until the warm-up ends."""
        super().start(trainer, module)
        self._target_loss = None
        self._unchecked: list[str] | None = None
        self._random: dict[str, Any] | None = None

    def fork(self) -> None:
        """Copy the user's module as it is now, with the state of its optimizer."""
        super().fork()
        self._unchecked = []
        if is_overridden("optimizer_step", self._target, L.LightningModule):
            wrap(self._target, "optimizer_step", self._optimizer_step)

    def _optimizer_step(
        self, module: L.LightningModule, original: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        """The module's own, which may draw random numbers before ``training_step``."""
        self._random = random_states()
        return original(*args, **kwargs)

    def before_step(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Record what the step begins with."""
        super().before_step(args, kwargs)
        if self._record is not None and self._random is not None:
            self._record.random, self._random = self._random, None

    def before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Note in the first step, which both networks take from the same point, which parameters have a gradient."""
        super().before_optimizer_step(optimizer)
        if self._record is not None and self._unchecked is not None:
            trained = self._target.named_parameters()
            self._unchecked = [name for name, each in trained if each.grad is not None and each.grad.any()]

    def _check_gradients(self) -> None:
        """Refuse a module whose copy computes its loss with the parameters of the original, not its own."""
        mine = dict(self._twin.named_parameters())
        if lacking := [name for name in self._unchecked or () if mine[name].grad is None]:
            raise MisconfigurationException(
                f"The copy of {type(self._target).__name__} that trains beside it has no gradient for "
                f"{', '.join(lacking[:5])}: its training_step uses the original's. Hold functions that refer to the "
                "module as its methods, not in containers or outside of it."
            )
        self._unchecked = None

    def after_step(self, capture: LossCapture) -> None:
        """Record the target's unweighted loss; the first where there are several."""
        if self._record is not None and self._target_loss is None and capture.samples:
            self._target_loss = capture.samples[0].mean_loss.detach()

    def learn(self, record: StepRecord, batch_idx: int) -> dict[str, Any]:
        """Train on one batch exactly as the plain Trainer would."""
        results: list[tuple[dict[str, Any], LossCapture]] = []

        def closure() -> Tensor | None:
            capture = LossCapture()
            with torch.enable_grad():
                output = self._backward(self._forward(record, capture), batch_idx)
            if record.options is not None and output and self._unchecked is not None:
                self._check_gradients()
            results.append((output, capture))
            return output.get("loss")

        self._follow_target()
        with replaying(record.random):
            self._run(closure, record, batch_idx)
        output, capture = results[0]
        target, self._target_loss = self._target_loss, None
        if output and capture.samples and target is not None:
            self._statistics.add_gap((target - capture.samples[0].mean_loss).float())
        return output

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state returned by :meth:`state_dict`."""
        super().load_state_dict(state)
        self._unchecked = None
