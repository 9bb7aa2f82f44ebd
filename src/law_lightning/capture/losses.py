"""A classification loss taken apart: what its mean reduction averages, sample by sample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from law_lightning.capture.samples import Samples


@dataclass(frozen=True)
class ReducedLoss:
    """One reduced loss taken apart: ``elements.sum() / denominator`` is what its mean reduction returns."""

    elements: Tensor  # [B] or [B, positions...], with its graph
    denominator: Tensor | int
    samples: Samples  # with their graph


def _per_sample(elements: Tensor) -> Tensor:
    return elements if elements.ndim == 1 else elements.flatten(1).mean(dim=1)


def class_loss(
    func: Callable[..., Tensor],
    input: Tensor,  # noqa: A002 - torch's own name, callers may pass it by keyword
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> ReducedLoss:
    """Take ``cross_entropy`` or ``nll_loss`` apart; ``input`` [C], [B, C] or [B, C, positions...]."""
    options: dict[str, Any] = {"weight": weight, "ignore_index": ignore_index}
    if func is F.cross_entropy:
        options["label_smoothing"] = label_smoothing
    if input.ndim == 1:  # one sample without a batch dimension
        input, target = input.unsqueeze(0), target.unsqueeze(0)  # noqa: A001
    elements = func(input, target, reduction="none", **options)
    logits = input
    valid: Tensor | None = None
    one_label = elements.ndim == 1 and not target.is_floating_point()
    denominator: Tensor | int
    if target.is_floating_point():  # class probabilities, [B, C, ...]: nothing is ignored
        denominator = elements.numel()
        target = target.argmax(dim=1)
        correct = (logits.argmax(dim=1) == target).float()
    else:
        valid = target != ignore_index
        if target.device.type == "cpu" and elements.ndim == 1 and bool(valid.all()):  # other devices would wait
            valid, target = None, target.long()
            denominator = len(elements) if weight is None else weight[target].sum()
            correct = (logits.argmax(dim=1) == target).float()
        else:
            target = target.where(valid, 0).long()  # torch takes uint8 as well, which would index like a mask
            denominator = valid.sum() if weight is None else (weight[target] * valid).sum()
            correct = ((logits.argmax(dim=1) == target) & valid).float()
    loss = elements
    divisor: Tensor | float = denominator
    if elements.ndim > 1:  # dense: a sample is the mean over its positions
        logits = logits.flatten(2).mean(dim=2)
        target = target.flatten(1)
        if valid is None:
            target = target.mode(dim=1).values
            loss, correct = _per_sample(loss), _per_sample(correct)
            divisor = denominator * len(elements) / elements.numel()
        else:
            positions = valid.flatten(1)
            counts = torch.zeros(logits.shape, dtype=target.dtype, device=target.device)
            target = counts.scatter_add_(1, target, positions.to(target.dtype)).argmax(dim=1)
            positions = positions.sum(dim=1)
            loss = loss.flatten(1).sum(dim=1) / positions.clamp_min(1)
            correct = correct.flatten(1).sum(dim=1) / positions.clamp_min(1)
            valid = positions > 0
            divisor = denominator / positions
    return ReducedLoss(elements, denominator, Samples(loss, logits, target, correct, valid, one_label, divisor))


def binary_loss(
    func: Callable[..., Tensor],
    input: Tensor,  # noqa: A002
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> ReducedLoss:
    """Take ``binary_cross_entropy_with_logits`` apart; one logit a sample ([B] or [B, 1]), or one a class [B, C].

    With one logit a class the prediction counts as right when its largest logit lies on a positive label.
    """
    if input.ndim == 0:
        input, target = input.unsqueeze(0), target.unsqueeze(0)  # noqa: A001
    elements = func(input, target, weight=weight, pos_weight=pos_weight, reduction="none")
    logits = input.flatten(1) if input.ndim > 1 else input.unsqueeze(1)
    given, positive = logits.shape[1], target.reshape(logits.shape) > 0.5
    if given == 1:
        correct = ((logits > 0) == positive).squeeze(1).float()
        logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
        index = positive.squeeze(1).long()
    else:
        correct = positive.gather(1, logits.argmax(dim=1, keepdim=True)).squeeze(1).float()
        index = target.reshape(logits.shape).argmax(dim=1)
    samples = Samples(_per_sample(elements), logits, index, correct, one_label=given == 1)
    return ReducedLoss(elements, elements.numel(), samples)


#: What takes each loss apart; these are the losses that are captured.
TAKE_APART: dict[Callable[..., Any], Callable[..., ReducedLoss]] = {
    F.cross_entropy: class_loss,
    F.nll_loss: class_loss,
    F.binary_cross_entropy_with_logits: binary_loss,
}
ARGUMENTS = {  # names of the positional arguments, for the reduction's position differs
    F.cross_entropy: (
        *("input", "target", "weight", "size_average", "ignore_index", "reduce", "reduction", "label_smoothing"),
    ),
    F.nll_loss: ("input", "target", "weight", "size_average", "ignore_index", "reduce", "reduction"),
    F.binary_cross_entropy_with_logits: (
        *("input", "target", "weight", "size_average", "reduce", "reduction", "pos_weight"),
    ),
}


def target_error(logits: Tensor, target: Tensor, ignore_index: int = -100) -> ValueError:
    """The error for labels that are no class of the logits."""
    num_classes = logits.shape[1] if logits.ndim > 1 else logits.shape[0]
    labels = target[target != ignore_index]
    wrong = labels[(labels < 0) | (labels >= num_classes)].unique().tolist()
    return ValueError(
        f"Labels out of range: the target holds {wrong[:10]}, but the network's logits have {num_classes} classes "
        f"(labels 0 to {num_classes - 1}). Mend the labels in the dataset, widen the network's last layer, or pass "
        "ignore_index to the loss for samples without a label."
    )


def check_target(logits: Tensor, target: Tensor, ignore_index: int = -100) -> None:
    """Raise a ValueError if a label is no class of the logits. Waits for the device."""
    num_classes = logits.shape[1] if logits.ndim > 1 else logits.shape[0]
    wrong = ((target < 0) | (target >= num_classes)) & (target != ignore_index)
    if wrong.any():
        raise target_error(logits, target, ignore_index)
