"""Sums over the samples of a stage, computed without waiting for the device at every step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from law_lightning import functional as LF
from law_lightning.capture.part import Part
from law_lightning.capture.samples import Samples

_BATCHES = 64  # kept before they are summed: fewer operations in each step, and a bound on the memory of a long stage
_TOTALS = 7  # finite losses: number, sum and weighted sum; samples with a label; correct ones; K and K^2


class StageStatistics(Part):
    """Sums over the samples of a stage: loss, accuracy, weights (per class too), and the loss gap.

    Args:
        margins: sum up margins per class and the errors of the most confident third, too, for strategies that follow
            them.

    Attributes:
        num_lost: losses of the stage last summed up that were not finite, over all processes.
    """

    per_process = True

    def __init__(self, margins: bool = False) -> None:
        self._margins = margins
        self._reset(torch.device("cpu"))

    def start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """A fit begins."""
        self._reset(trainer.strategy.root_device)

    def _reset(self, device: torch.device) -> None:
        self._device, self._warned, self.num_lost = device, False, 0
        # Each loss, accuracy, weight and label (-1 for none), perhaps margin and confidence, all [B].
        self._batches: list[Sequence[Tensor]] = []
        self._gaps: list[Tensor] = []  # scalars
        self._num_classes = 0
        self._sums: dict[str, Tensor] = {}

    def add(self, samples: Samples, weights: Tensor | None) -> None:
        """Add a batch; ``weights`` None stands for ones."""
        weights = torch.ones_like(samples.loss) if weights is None else weights
        label = samples.target if samples.valid is None else samples.target.where(samples.valid, -1)
        columns = [samples.loss.float(), samples.accuracy, weights.float(), label]
        if self._margins:
            logits = samples.logits.float()
            columns += [LF.margin(logits, samples.target), logits.softmax(dim=1).amax(dim=1)]
        self._batches.append(columns)
        self._num_classes = max(self._num_classes, samples.num_classes)  # heads may differ
        if len(self._batches) >= _BATCHES:
            self._sum_up()

    def add_gap(self, gap: Tensor) -> None:
        """Add a step's loss of the target minus that of the reference, both unweighted, a scalar."""
        self._gaps.append(gap)
        if len(self._gaps) >= _BATCHES:
            self._sum_up()

    def _sum_up(self) -> None:
        exact = torch.float32 if self._device.type == "mps" else torch.float64  # which mps does not have
        if not self._sums:
            totals = torch.zeros(_TOTALS + 2 * self._margins, dtype=exact, device=self._device)
            self._sums = {"totals": totals, "gap": totals.new_zeros(2)}
            self._sums["extremes"] = totals.new_full((2,), -math.inf)  # the largest K and -K
            self._sums["per_class"] = totals.new_zeros(2 + self._margins, 0)  # sum of K, number of samples, margins
        self._widen(self._num_classes)
        if self._batches:
            columns = [torch.cat(list(column)).to(exact) for column in zip(*self._batches, strict=True)]
            loss, accuracy, weight, label, *more = torch.stack(columns)[:, columns[3] >= 0]
            finite, one = loss.isfinite(), torch.ones_like(loss)
            loss = loss.where(finite, 0.0)
            weighted = (weight * loss).where(finite, 0.0)
            terms, per_class = [finite, loss, weighted, one, accuracy, weight, weight.square()], [weight, one]
            if self._margins:
                margin, confidence = more
                most = confidence.nan_to_num(0.0).argsort(descending=True, stable=True)[: round(len(confidence) / 3)]
                terms += [one[most], 1 - accuracy[most]]
                per_class.append(margin.nan_to_num())
            self._sums["totals"] += torch.stack([term.to(exact).sum() for term in terms])
            self._sums["per_class"].index_add_(1, label.long(), torch.stack(per_class))
            both = torch.stack([weight, -weight])
            self._sums["extremes"] = torch.cat([self._sums["extremes"].unsqueeze(1), both], dim=1).amax(dim=1)
        if self._gaps:
            gaps = torch.stack(self._gaps).to(exact)  # before summing: two large gaps are too much for float32
            finite = gaps.isfinite()
            self._sums["gap"] += torch.stack([gaps.where(finite, 0.0).sum(), finite.sum()])
        self._batches, self._gaps = [], []

    def _widen(self, num_classes: int) -> None:
        """Add columns for further classes."""
        self._sums["per_class"] = F.pad(self._sums["per_class"], (0, num_classes - self._sums["per_class"].shape[1]))

    def summary(self, trainer: L.Trainer) -> dict[str, Any]:
        """The stage in plain numbers, over all processes, which must all call this; resets the sums.

        Returns:
            ``loss``, ``weighted_loss`` (the mean of K x L), ``accuracy``, ``loss_gap`` (None without a reference),
            ``weight_mean``, ``weight_std``, ``weight_min``, ``weight_max`` and ``weight_per_class`` (None for a class
            without samples). With margins also ``count_per_class``, ``margin_per_class`` (likewise), and
            ``confident_error`` (see :func:`law_lightning.functional.confident_error`).
        """
        reduce = trainer.strategy.reduce
        self._sum_up()
        num_classes = torch.tensor(self._num_classes, device=self._device)
        self._widen(int(reduce(num_classes, reduce_op="max")))  # heads may differ
        largest, negative_smallest = reduce(self._sums.pop("extremes"), reduce_op="max").tolist()
        sums = {name: reduce(value, reduce_op="sum").tolist() for name, value in self._sums.items()}
        self._sums = {}
        weights, counts, *margins = sums["per_class"]
        losses, loss, weighted, count, correct, weight, squares, *confident = sums["totals"]
        gap, steps = sums["gap"]
        self.num_lost = int(count - losses)
        mean = weight / count if count else 1.0
        summary: dict[str, Any] = {
            "loss": loss / losses if losses else math.nan,
            "weighted_loss": weighted / losses if losses else math.nan,
            "accuracy": correct / count if count else math.nan,
            "loss_gap": gap / steps if steps else None,
            "weight_mean": mean,
            "weight_std": max(squares / count - mean**2, 0.0) ** 0.5 if count else 0.0,
            "weight_min": -negative_smallest if count else 1.0,
            "weight_max": largest if count else 1.0,
            "weight_per_class": [k / n if n else None for k, n in zip(weights, counts, strict=True)],
        }
        if self._margins:
            most, wrong = confident
            summary["count_per_class"] = [int(n) for n in counts]
            summary["margin_per_class"] = [m / n if n else None for m, n in zip(margins[0], counts, strict=True)]
            summary["confident_error"] = wrong / most / (1 - correct / count) if most and correct < count else 0.0
        return summary

    def warn_of_lost(self, stage: int, summary: dict[str, Any]) -> None:
        """Warn of losses or weights that are not finite, once a fit; ``summary`` is that of the stage, just taken."""
        wrong = [f"{self.num_lost} losses"] * (self.num_lost > 0)
        wrong += ["weights"] * (not math.isfinite(summary["weight_mean"]))
        if wrong and not self._warned:
            self._warned = True
            rank_zero_warn(
                f"In stage {stage}, {' and '.join(wrong)} of samples were NaN or infinite. They are left out of "
                "l_smooth, but the network trains on them as it would without LAW, and may diverge: look for such "
                "values in the data, lower the learning rate, or set the Trainer's gradient_clip_val. There will be no "
                "such warning of later stages."
            )

    def state_dict(self) -> dict[str, Any]:
        """The sums so far, and the batches still to be summed, as summing them now would round differently."""
        return {
            "sums": {name: value.to("cpu", copy=True) for name, value in self._sums.items()},
            "batches": [torch.stack([column.float().cpu() for column in batch]) for batch in self._batches],
            "gaps": [gap.cpu() for gap in self._gaps],
            "num_classes": self._num_classes,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state returned by :meth:`state_dict`.

        Raises:
            ValueError: the state's parts do not fit together.
        """
        device, sums, classes = self._device, state["sums"], state["num_classes"]
        known = sums["per_class"].shape[-1] if sums else 0  # more may have been seen since the last sum
        sizes = {"totals": (_TOTALS + 2 * self._margins,), "per_class": (2 + self._margins, known)}
        shapes = sizes | {"gap": (2,), "extremes": (2,)} if sums else {}
        found = {name: tuple(value.shape) for name, value in sums.items()}
        if found != shapes or not known <= classes <= 2**24:  # up to which float32 holds labels
            raise ValueError("its sums over the samples do not fit together")
        for table in state["batches"]:
            if (
                table.ndim != 2
                or len(table) != 4 + 2 * self._margins
                or not table.is_contiguous()
                or bool((table[3] >= classes).any())
            ):
                raise ValueError("its samples' losses, weights and labels do not fit together")
        if any(gap.shape != () for gap in state["gaps"]):
            raise ValueError("its loss gaps are not numbers")
        self._sums = {name: value.to(device, copy=True) for name, value in sums.items()}
        self._batches = [table.to(device).unbind() for table in state["batches"]]
        self._gaps = [gap.to(device) for gap in state["gaps"]]
        self._num_classes = classes
