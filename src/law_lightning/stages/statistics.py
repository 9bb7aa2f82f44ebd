"""What happened to the samples during a stage, gathered without waiting for the device at every step."""

from __future__ import annotations

import math
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from law_lightning.capture.part import Part
from law_lightning.capture.samples import Samples

_MOST_CLASSES = 10**7  # of a checkpoint that is to be believed
_SUMS = [[], ["gap"], ["totals", "per_class", "max", "-min"], ["totals", "per_class", "max", "-min", "gap"]]
_FLUSH_EVERY = 64  # batches kept before they are summed up: bounds the memory of a long stage


def _exact_type(device: torch.device) -> torch.dtype:
    """Double precision, where the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


def _widened(per_class: Tensor, num_classes: int) -> Tensor:
    return torch.nn.functional.pad(per_class, (0, num_classes - per_class.shape[1]))


def _check(state: dict[str, Any]) -> None:
    """Raise a ValueError unless the sums of a state can be gone on with."""
    classes, sums = state["num_classes"], state["sums"]
    if not isinstance(classes, int) or not 0 <= classes <= _MOST_CLASSES:
        raise ValueError(f"its number of classes is {classes!r}")
    known = sums["per_class"].shape[1] if "per_class" in sums else 0  # more may have been seen since the last sum
    shapes = {"totals": (7,), "per_class": (2, known), "max": (), "-min": (), "gap": (2,)}
    found = {name: tuple(value.shape) for name, value in sums.items()}
    if known > classes or found not in ({name: shapes[name] for name in names} for names in _SUMS):
        raise ValueError("its sums over the samples do not fit together")
    for loss, accuracy, weights, target, valid in state["pending"]:
        columns = [each for each in (loss, accuracy, weights, target, valid) if each is not None]
        if any(each.shape != (len(target),) or not each.is_contiguous() for each in columns):
            raise ValueError("its samples' losses, weights and labels do not fit together")
        if target.dtype != torch.int64 or bool(((target < 0) | (target >= classes)).any()):
            raise ValueError("its samples have labels that are no classes")
    if any(gap.shape != () for gap in state["gaps"]):
        raise ValueError("its loss gaps are not numbers")


class StageStatistics(Part):
    """Sums over the samples of a stage: loss, accuracy, weights (per class too), and the loss gap.

    Attributes:
        num_lost: losses of the stage last summed up that were not finite, over all processes.
    """

    per_process = True

    def __init__(self) -> None:
        self._device, self._warned = torch.device("cpu"), False
        self._reset()

    def start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """A fit begins."""
        self._device, self._warned = trainer.strategy.root_device, False
        self._reset()

    def _reset(self) -> None:
        self.num_lost = 0
        self._pending: list[tuple[Any, ...]] = []  # loss, accuracy, weights, target, valid or None
        self._gaps: list[Tensor] = []
        self._num_classes = 0
        self._sums: dict[str, Tensor] = {}

    def add(self, samples: Samples, weights: Tensor | None) -> None:
        """Take note of a batch; ``weights`` None stands for ones."""
        weights = torch.ones_like(samples.loss) if weights is None else weights
        row = (samples.loss.float(), samples.accuracy, weights.float(), samples.target, samples.valid)
        self._pending.append(row)
        self._num_classes = max(self._num_classes, samples.num_classes)  # heads may differ
        if len(self._pending) >= _FLUSH_EVERY:
            self._flush()

    def add_gap(self, gap: Tensor) -> None:
        """Take note of a step's loss of the target less that of the reference, both unweighted, a scalar."""
        self._gaps.append(gap)
        if len(self._gaps) >= _FLUSH_EVERY:
            self._flush()

    def _flush(self) -> None:
        if self._pending:
            *columns, valids = zip(*self._pending, strict=True)
            loss, accuracy, weights, target = (torch.cat(column) for column in columns)
            finite = loss.isfinite()
            if any(valid is not None for valid in valids):
                valid = torch.cat([
                    torch.ones_like(row, dtype=torch.bool) if each is None else each
                    for each, row in zip(valids, columns[-1], strict=True)
                ])  # fmt: skip
                loss, finite = loss[valid], finite[valid]
                accuracy, weights, target = accuracy[valid], weights[valid], target[valid]
            dtype = _exact_type(loss.device)
            kept, loss = weights.to(dtype), loss.where(finite, 0.0).to(dtype)
            per_class = torch.zeros(2, self._num_classes, dtype=dtype, device=loss.device)
            per_class[0].index_add_(0, target, kept)
            per_class[1].index_add_(0, target, torch.ones_like(kept))
            totals = torch.stack([
                finite.sum().to(dtype), loss.sum(), accuracy.to(dtype).sum(), kept.new_tensor(len(kept)), kept.sum(),
                kept.square().sum(), (kept * loss).where(finite, 0.0).sum(),
            ])  # fmt: skip
            self._accumulate("totals", totals, torch.add)
            if "per_class" in self._sums:  # fewer classes were known before
                self._sums["per_class"] = _widened(self._sums["per_class"], self._num_classes)
            self._accumulate("per_class", per_class, torch.add)
            lowest = kept.new_tensor([-math.inf])  # stands for "none": every process must have something to reduce
            self._accumulate("max", torch.cat([kept, lowest]).amax(), torch.maximum)
            self._accumulate("-min", torch.cat([-kept, lowest]).amax(), torch.maximum)
            self._pending.clear()
        if self._gaps:
            gaps = torch.stack(self._gaps)
            finite = gaps.isfinite()
            exact = _exact_type(gaps.device)  # before summing: two large gaps are too much for float32
            gap = torch.stack([gaps.where(finite, 0.0).to(exact).sum(), finite.sum().to(exact)])
            self._accumulate("gap", gap, torch.add)
            self._gaps.clear()

    def _accumulate(self, name: str, value: Tensor, combine: Any) -> None:
        self._sums[name] = combine(self._sums[name], value) if name in self._sums else value

    def summary(self, trainer: L.Trainer) -> dict[str, Any]:
        """The stage in plain numbers, over all processes; starts anew.

        Returns:
            ``loss``, ``weighted_loss`` (the mean of K x L), ``accuracy``, ``loss_gap`` (None without a reference),
            ``weight_mean``, ``weight_std``, ``weight_min``, ``weight_max`` and ``weight_per_class`` (None for a class
            unseen).
        """
        self._flush()
        sums: dict[str, Any] = {}
        if "per_class" in self._sums:
            width = torch.tensor(self._num_classes, device=self._sums["per_class"].device)
            widest = int(trainer.strategy.reduce(width, reduce_op="max"))  # processes may have seen other heads
            self._sums["per_class"] = _widened(self._sums["per_class"], widest)
        for name, value in self._sums.items():
            op = "max" if name in ("max", "-min") else "sum"
            sums[name] = trainer.strategy.reduce(value, reduce_op=op).tolist()
        self._sums = {}
        losses, loss, right, count, total, squares, weighted = sums.get("totals", [0.0] * 7)
        class_sum, class_count = sums.get("per_class", [[], []])
        self.num_lost = int(count - losses)
        mean = total / count if count else 1.0
        gap, steps = sums.get("gap", [0.0, 0.0])
        return {
            "loss": loss / losses if losses else float("nan"),
            "weighted_loss": weighted / losses if losses else float("nan"),
            "accuracy": right / count if count else float("nan"),
            "loss_gap": gap / steps if steps else None,
            "weight_mean": mean,
            "weight_std": max(squares / count - mean**2, 0.0) ** 0.5 if count else 0.0,
            "weight_min": -sums["-min"] if count else 1.0,
            "weight_max": sums["max"] if count else 1.0,
            "weight_per_class": [s / n if n else None for s, n in zip(class_sum, class_count, strict=True)],
        }

    def warn_of_lost(self, stage: int, summary: dict[str, Any]) -> None:
        """Warn of losses or weights that are not finite, once a fit.

        Args:
            stage: that has ended.
            summary: of it, just taken.
        """
        wrong = [f"{self.num_lost} losses"] * (self.num_lost > 0)
        wrong += ["weights"] * (not math.isfinite(summary["weight_mean"]))
        if wrong and not self._warned:
            self._warned = True
            rank_zero_warn(
                f"In stage {stage}, {' and '.join(wrong)} of samples were NaN or infinite. They take no part in "
                "l_smooth, but the network trains on them as it would without LAW, and may be lost: look for such "
                "values in the data, lower the learning rate, or set the Trainer's gradient_clip_val. Later stages "
                "will not be warned of."
            )

    def state_dict(self) -> dict[str, Any]:
        """The sums so far and what is still to be summed, as it is: summing earlier would round otherwise."""
        return {
            "sums": {name: value.cpu() for name, value in self._sums.items()},
            "pending": [[None if each is None else each.cpu().contiguous() for each in row] for row in self._pending],
            "gaps": [gap.cpu() for gap in self._gaps],
            "num_classes": self._num_classes,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken.

        Raises:
            ValueError: it does not fit together.
        """
        sums, device = dict(state["sums"]), self._device
        if "totals" in sums and sums["totals"].shape == (6,):  # files of before: without the weighted loss
            sums["totals"] = torch.cat([sums["totals"], sums["totals"][1:2]])
        _check({**state, "sums": sums})
        self._sums = {name: value.to(device) for name, value in sums.items()}
        self._pending = [tuple(None if each is None else each.to(device) for each in row) for row in state["pending"]]
        self._gaps = [gap.to(device) for gap in state["gaps"]]
        self._num_classes = state["num_classes"]
