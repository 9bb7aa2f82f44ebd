"""DNR, the duplicate network: a copy of the target that trains on the same batches with plain losses."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor

from law_lightning.capture.loss_capture import LossCapture
from law_lightning.second_network.second_network import SecondNetwork, StepRecord
from law_lightning.stages.statistics import StageStatistics
from law_lightning.utilities.randomness import replaying


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
            results.append((output, capture))
            return output.get("loss")

        self._follow_target()
        with replaying(record.random):
            self._run(closure, record.options)
        output, capture = results[0]
        target, self._target_loss = self._target_loss, None
        if output and capture.samples and target is not None:
            self._statistics.add_gap((target - capture.samples[0].mean_loss).float())
        return output
