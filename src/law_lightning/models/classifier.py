"""A classifier trained as in the LAW paper: SGD whose learning rate falls at fixed stages of the run."""

from __future__ import annotations

import math
from collections.abc import Sequence

import lightning as L
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import ChainedScheduler, LinearLR, LRScheduler, MultiStepLR

Batch = tuple[Tensor, Tensor]


class ImageClassifier(L.LightningModule):
    """Trains a network with the mean cross-entropy and the paper's SGD.

    The learning rate is multiplied by ``gamma`` after given fractions of all optimizer steps. The
    defaults are the beginnings of stages 10, 13 and 16 of 20, counted from 1. In a warm-up before, it may
    rise from near 0. Logged: ``train/loss``, which is unweighted whatever the callbacks, ``val/loss``,
    ``val/acc``, ``test/loss``, ``test/acc``.

    Args:
        network: Maps inputs [B, ...] to logits [B, C].
        lr: Learning rate at the start.
        momentum: Momentum of SGD, in [0, 1).
        weight_decay: Weight decay of SGD.
        milestones: Fractions of the run, each in (0, 1), after which the rate falls; empty keeps it constant.
        gamma: Factor of the rate at each milestone, in (0, 1].
        warmup: Fraction of the run, in [0, 1) and below every milestone, in which the rate rises linearly to ``lr``:
            of W such steps, step i (from 0) has the rate ``lr * (i + 1) / (W + 1)``. 0 starts at ``lr``.
    """

    def __init__(
        self,
        network: nn.Module,
        lr: float = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 2e-5,
        milestones: Sequence[float] = (0.45, 0.6, 0.75),
        gamma: float = 0.1,
        warmup: float = 0.0,
    ) -> None:
        super().__init__()
        if not (0.0 < lr < math.inf and 0.0 < gamma <= 1.0):
            raise ValueError(f"lr is {lr} and gamma {gamma}, but lr must be above 0 and finite, gamma in (0, 1].")
        if not (0.0 <= momentum < 1.0 and 0.0 <= weight_decay < math.inf):
            raise ValueError(
                f"momentum is {momentum} and weight_decay {weight_decay}, but momentum must lie in [0, 1), and "
                "weight_decay be at least 0 and finite."
            )
        if not all(0.0 < milestone < 1.0 for milestone in milestones):
            raise ValueError(
                f"milestones is {tuple(milestones)}, but each must lie in (0, 1): a fraction of all optimizer steps."
            )
        if not 0.0 <= warmup < min(milestones, default=1.0):
            raise ValueError(
                f"warmup is {warmup}, but it must be at least 0 and below {min(milestones, default=1.0)}, the first "
                "milestone or the end: otherwise the rate would fall before it has risen."
            )
        self.network = network
        self.lr = lr
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.milestones = tuple(milestones)
        self.gamma = gamma
        self.warmup = warmup

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, [B, C], of inputs [B, ...]."""
        logits: Tensor = self.network(x)
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the mean cross-entropy of inputs [B, ...] and labels [B]."""
        x, target = batch
        logits = self(x)
        # Once more, without gradient: a callback may weight the samples of the loss that is trained on.
        # Without the batch size Lightning would search the batch for it at every step.
        self.log("train/loss", F.cross_entropy(logits.detach(), target), batch_size=len(target))
        return F.cross_entropy(logits, target)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the loss and the accuracy over the validation samples."""
        self._evaluate(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the loss and the accuracy over the test samples."""
        self._evaluate(batch, "test")

    def _evaluate(self, batch: Batch, split: str) -> None:
        x, target = batch
        logits = self(x)
        accuracy = (logits.argmax(dim=1) == target).float().mean()
        metrics = {f"{split}/loss": F.cross_entropy(logits, target), f"{split}/acc": accuracy}
        self.log_dict(metrics, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(target), sync_dist=True)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return SGD and, if there are milestones or a warm-up, the schedule of its rate over optimizer steps."""
        optimizer = SGD(self.parameters(), lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)
        if not self.milestones and self.warmup == 0:
            return optimizer
        total = self.trainer.estimated_stepping_batches
        if not 0 <= total < math.inf:  # Lightning says -1 for data of unknown length
            raise ValueError(
                "The training has no end, or none that is known beforehand, so the fractions in milestones and warmup "
                "name no step: give the Trainer max_epochs or max_steps, for data of unknown length max_steps, or the "
                "ImageClassifier milestones=() and warmup=0."
            )
        # Never step 0, or a run of few steps would start at the reduced rate.
        steps = [max(1, _step(milestone, total)) for milestone in sorted(self.milestones)]
        scheduler: LRScheduler = MultiStepLR(optimizer, milestones=steps, gamma=self.gamma)
        if self.warmup > 0:
            rising = _step(self.warmup, total)
            warmup = LinearLR(optimizer, start_factor=1 / (rising + 1), total_iters=rising)
            scheduler = ChainedScheduler([warmup, scheduler], optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def _step(fraction: float, total: float) -> int:
    """The step at which a fraction of all steps is done, rounded down."""
    # 0.29 * 100 is 28.999...: rounding down must not lose a step.
    return math.floor(fraction * total + 1e-9)
