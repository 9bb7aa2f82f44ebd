"""A classification loss taken apart: what its mean reduction averages, sample by sample."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from law_lightning.capture.samples import Samples


class ReducedLoss(NamedTuple):
    """One reduced loss taken apart: ``elements.sum() / denominator`` is what its mean reduction returns."""

    elements: Tensor  # [B] or [B, positions...], with its graph
    denominator: Tensor | int
    samples: Samples  # with their graph


def class_loss(func: Callable[..., Tensor], given: dict[str, Any]) -> ReducedLoss:
    """Take ``cross_entropy`` or ``nll_loss`` apart, ``given`` its arguments by name.

    ``input`` is [C], [B, C] or [B, C, positions...], ``target`` class indices or, of that shape, class probabilities.
    """
    logits, target = given["input"], given["target"]
    if logits.ndim == 1:  # one sample without a batch dimension
        logits, target = logits.unsqueeze(0), target.unsqueeze(0)
    elements = func(**given | {"input": logits, "target": target, "reduction": "none"})
    soft, weight = target.is_floating_point(), given.get("weight")
    one_label = elements.ndim == 1 and not soft
    valid = None if soft else target != given.get("ignore_index", -100)
    if valid is not None and elements.ndim == 1 and target.device.type == "cpu" and bool(valid.all()):
        valid = None  # on other devices this check would wait
    if soft:
        target = target.argmax(dim=1)
    elif valid is not None:
        target = target.where(valid, 0)
    target = target.long()  # torch takes uint8 as well, which would index like a mask
    correct = logits.argmax(dim=1) == target
    if valid is not None:
        correct = correct & valid
    denominator: Tensor | int = elements.numel() if valid is None else valid.sum()
    if weight is not None and not soft:
        denominator = (weight[target] if valid is None else weight[target] * valid).sum()
    loss, right, divisor = elements, correct.float(), denominator
    if elements.ndim > 1:  # dense: a sample is the mean over its positions, its label the most frequent one
        labelled = torch.ones_like(target, dtype=torch.bool) if valid is None else valid
        labelled, target, logits = labelled.flatten(1), target.flatten(1), logits.flatten(2).mean(dim=2)
        counts = torch.zeros(logits.shape, dtype=target.dtype, device=target.device)
        target = counts.scatter_add_(1, target, labelled.to(target.dtype)).argmax(dim=1)
        positions = labelled.sum(dim=1)
        loss = elements.flatten(1).sum(dim=1) / positions.clamp_min(1)
        right = right.flatten(1).sum(dim=1) / positions.clamp_min(1)
        valid = None if valid is None else positions > 0
        divisor = denominator / positions
    return ReducedLoss(elements, denominator, Samples(loss, logits, target, right, valid, one_label, divisor))


def binary_loss(func: Callable[..., Tensor], given: dict[str, Any]) -> ReducedLoss:
    """Take ``binary_cross_entropy_with_logits`` apart, ``given`` its arguments by name.

    ``input`` holds a logit for each sample ([B] or [B, 1]) or for each class [B, C]; the latter counts as correct if
    the class of the largest logit is a positive label.
    """
    logits, target = given["input"], given["target"]
    if logits.ndim == 0:
        logits, target = logits.unsqueeze(0), target.unsqueeze(0)
    elements = func(**given | {"input": logits, "target": target, "reduction": "none"})
    loss = elements if elements.ndim == 1 else elements.flatten(1).mean(dim=1)
    logits = logits.flatten(1) if logits.ndim > 1 else logits.unsqueeze(1)
    target = target.reshape(logits.shape)
    positive, one_label = target > 0.5, logits.shape[1] == 1
    if one_label:
        correct = ((logits > 0) == positive).squeeze(1)
        logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
        target = positive.squeeze(1).long()
    else:
        correct = positive.gather(1, logits.argmax(dim=1, keepdim=True)).squeeze(1)
        target = target.argmax(dim=1)
    return ReducedLoss(elements, elements.numel(), Samples(loss, logits, target, correct.float(), one_label=one_label))


#: The losses that are captured, each with the function that takes it apart.
TAKE_APART: dict[Callable[..., Any], Callable[..., ReducedLoss]] = {
    F.cross_entropy: class_loss,
    F.nll_loss: class_loss,
    F.binary_cross_entropy_with_logits: binary_loss,
}
#: The names of their positional arguments, as the position of ``reduction`` differs.
ARGUMENTS = {loss: tuple(inspect.signature(loss).parameters) for loss in TAKE_APART}


def check_target(logits: Tensor, target: Tensor, ignore_index: int = -100) -> None:
    """Raise a ValueError if a label is not a class of the logits. Waits for the device."""
    if target.is_floating_point():  # probabilities
        return
    num_classes = logits.shape[1] if logits.ndim > 1 else logits.shape[0]
    wrong = ((target < 0) | (target >= num_classes)) & (target != ignore_index)
    if wrong.any():
        raise ValueError(
            f"Labels out of range: the target holds {target[wrong].unique().tolist()[:10]}, but the network's logits "
            f"have {num_classes} classes (labels 0 to {num_classes - 1}). Correct the labels in the dataset, widen the "
            "network's last layer, or pass ignore_index to the loss for samples without a label."
        )
