"""What a strategy does to the samples of a stage: their mean weight by loss and by margin."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor

from law_lightning import functional as LF
from law_lightning.capture.loss_capture import LossCapture
from law_lightning.capture.part import Part

LOSS_EDGES = tuple(10 ** (half / 2) for half in range(-6, 3))
"""Between the bins of the loss, in nats: 0.001 to 10 in steps of half a decade; the outer bins are open."""
MARGIN_EDGES = tuple(step / 10 for step in range(-9, 10))
"""Between the bins of the margin, which lies in [-1, 1]."""
LEAST = 5
"""A bin with fewer samples has no mean."""

_BINS = len(LOSS_EDGES) + len(MARGIN_EDGES) + 2
_KEPT = 2**20  # logits kept before they are summed up: the fewer sums, the less a step of a small network costs
_UNIT = 2.0**-16  # sums of whole numbers do not depend on the order, so a resumed fit has the same


class WeightCurves(Part):
    """Sums of weights over the samples of a stage, by their loss and by their margin; none while all weigh 1."""

    per_process = True

    def start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """A fit begins."""
        self._sums = torch.zeros(2, _BINS, dtype=torch.int64, device=trainer.strategy.root_device)
        self._batches: list[tuple[Tensor, ...]] = []  # of each the loss, logits, target, validity and weights
        self._kept = 0

    def after_step(self, capture: LossCapture) -> None:
        """Add the samples of a step."""
        for samples, weights in capture.weighed:
            if weights is not None:
                valid = torch.ones_like(samples.target, dtype=torch.bool) if samples.valid is None else samples.valid
                # The logits may be a view, such as of those at all positions.
                self._batches.append((samples.loss, samples.logits.clone(), samples.target, valid, weights))
                self._kept += samples.logits.numel()
        if self._kept > _KEPT:
            self._sum_up()

    def _sum_up(self) -> None:
        for classes in {batch[1].shape[1] for batch in self._batches}:  # heads may differ
            parts = zip(*(batch for batch in self._batches if batch[1].shape[1] == classes), strict=True)
            loss, logits, target, valid, weights = map(torch.cat, parts)
            margins = LF.margin(logits.float(), target)
            for values, edges, first in ((loss, LOSS_EDGES, 0), (margins, MARGIN_EDGES, len(LOSS_EDGES) + 1)):
                known = valid & values.isfinite() & weights.isfinite()
                places = first + torch.bucketize(values.float(), torch.tensor(edges, device=values.device))
                units = (weights.float() / _UNIT).where(known, 0.0).long()  # to leave some out would wait for a GPU
                self._sums.index_add_(1, places, torch.stack([units, known.long()]))
        self._batches, self._kept = [], 0

    def summary(self, trainer: L.Trainer) -> dict[str, Any]:
        """The stage over all processes, which must all call this; resets the sums.

        Returns:
            ``weight_by_loss`` and ``weight_by_margin``: the mean weight of each bin between :data:`LOSS_EDGES` and
            :data:`MARGIN_EDGES`, None for one with fewer than :data:`LEAST` samples; empty in the warm-up.
        """
        self._sum_up()
        sums, counts = trainer.strategy.reduce(self._sums, reduce_op="sum").tolist()
        self._sums.zero_()
        means = [_UNIT * total / n if n >= LEAST else None for total, n in zip(sums, counts, strict=True)]
        split = len(LOSS_EDGES) + 1
        return {"weight_by_loss": means[:split], "weight_by_margin": means[split:]} if any(counts) else {}

    def state_dict(self) -> dict[str, Any]:
        """The sums so far."""
        self._sum_up()
        return {"sums": self._sums.to("cpu", copy=True)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state returned by :meth:`state_dict`.

        Raises:
            ValueError: it is no such state.
        """
        if state["sums"].shape != self._sums.shape or state["sums"].dtype != torch.int64:
            raise ValueError("its sums of weights do not fit together")
        self._sums.copy_(state["sums"])

    def close(self) -> None:
        """Drop what is not summed up yet."""
        self._batches, self._kept = [], 0
