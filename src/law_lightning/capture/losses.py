"""A classification loss taken apart: what its reduction averages or adds up, sample by sample."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.overrides import handle_torch_function

from law_lightning._compat import function_modes
from law_lightning.capture.samples import Samples

THREE_WAYS = (
    "A module takes part in one of three ways: (1) its training_step calls torch.nn.functional.cross_entropy, nll_loss "
    "or binary_cross_entropy_with_logits (or their torch.nn modules), with any reduction; (2) it calls weighted, from "
    "law_lightning, on losses [B] of its own, with logits [B, C] and target [B], as in loss = weighted(losses, logits, "
    "target).mean(); (3) it returns a dict with 'loss' (a scalar) and, per sample, 'losses' [B], 'logits' [B, C] and "
    "'target' [B]."
)


def weighted(losses: Tensor, logits: Tensor, target: Tensor) -> Tensor:
    """Let per-sample losses of one's own take part: see the example.

    To be called in ``training_step``, and in ``validation_step`` where the validation accuracy is to come from it.
    During a fit with a weighting callback the gradient of each loss is scaled by the sample's weight; the values stay
    as they are. Without a callback this returns ``losses``.

    Args:
        losses: a loss for each sample, with its graph, [B].
        logits: the scores by which the losses were computed, [B, C].
        target: class indices, [B], -100 for a sample without a label; or class probabilities, [B, C].

    Returns:
        The losses, [B].

    Raises:
        ValueError: the shapes are others; only where a callback weights.

    Example:
        >>> logits, target = torch.zeros(2, 4), torch.tensor([3, 0])
        >>> losses = -logits.log_softmax(dim=1).gather(1, target.unsqueeze(1)).squeeze(1)
        >>> weighted(losses, logits, target).mean()
        tensor(1.3863)
    """
    return _seen(losses, logits, target) if function_modes() else losses


@torch.compiler.disable  # type: ignore[untyped-decorator]  # a compiler would not let a mode see it
def _seen(*given: Tensor) -> Tensor:
    seen: Tensor = handle_torch_function(weighted, given, *given)
    return seen


class ReducedLoss(NamedTuple):
    """One loss taken apart: ``elements.sum() / denominator`` is its mean or sum; 1 where it is not reduced."""

    elements: Tensor  # [B] or [B, positions...], with its graph
    denominator: Tensor | int
    samples: Samples  # with their graph


def class_loss(func: Callable[..., Tensor], given: dict[str, Any], plain: Tensor) -> ReducedLoss:
    """Take ``cross_entropy`` or ``nll_loss`` apart: ``given`` its arguments by name, ``plain`` what it returned.

    ``input`` is [C], [B, C] or [B, C, positions...], ``target`` class indices or, of that shape, class probabilities.
    """
    logits, target, reduction = given["input"], given["target"], given["reduction"]
    if logits.ndim == 1:  # one sample without a batch dimension
        logits, target = logits.unsqueeze(0), target.unsqueeze(0)
    elements = _elements(func, given | {"input": logits, "target": target}, plain)
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
    denominator: Tensor | int = 1
    if reduction == "mean":
        denominator = elements.numel() if valid is None else valid.sum()
        if weight is not None and not soft:
            denominator = (weight[target] if valid is None else weight[target] * valid).sum()
    # What is not reduced is most often averaged by the user, over all elements.
    divisor = elements.numel() if reduction == "none" else denominator
    loss, right = elements, correct.float()
    if elements.ndim > 1:  # dense: a sample is the mean over its positions, its label the most frequent one
        labelled = torch.ones_like(target, dtype=torch.bool) if valid is None else valid
        labelled, target, logits = labelled.flatten(1), target.flatten(1), logits.flatten(2).mean(dim=2)
        counts = torch.zeros(logits.shape, dtype=target.dtype, device=target.device)
        target = counts.scatter_add_(1, target, labelled.to(target.dtype)).argmax(dim=1)
        positions = labelled.sum(dim=1)
        loss = elements.flatten(1).sum(dim=1) / positions.clamp_min(1)
        right = right.flatten(1).sum(dim=1) / positions.clamp_min(1)
        valid = None if valid is None else positions > 0
        divisor = divisor / positions
    return ReducedLoss(elements, denominator, Samples(loss, logits, target, right, valid, one_label, divisor))


def binary_loss(func: Callable[..., Tensor], given: dict[str, Any], plain: Tensor) -> ReducedLoss:
    """Take ``binary_cross_entropy_with_logits`` apart, with arguments as for :func:`class_loss`.

    ``input`` holds a logit for each sample ([B] or [B, 1]) or for each class [B, C]; the latter counts as correct if
    the class of the largest logit is a positive label.
    """
    logits, target = given["input"], given["target"]
    if logits.ndim == 0:
        logits, target = logits.unsqueeze(0), target.unsqueeze(0)
    elements, reduction = _elements(func, given | {"input": logits, "target": target}, plain), given["reduction"]
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
    divisor = len(loss) / elements.numel() if reduction == "sum" else None
    samples = Samples(loss, logits, target, correct.float(), one_label=one_label, denominator=divisor)
    return ReducedLoss(elements, elements.numel() if reduction == "mean" else 1, samples)


def _elements(func: Callable[..., Tensor], given: dict[str, Any], plain: Tensor) -> Tensor:
    """The loss of every sample at every position; ``plain`` itself where it is not reduced."""
    if given["reduction"] == "none":
        return plain if plain.ndim else plain.unsqueeze(0)
    return func(**given | {"reduction": "none"})


def own_loss(func: Callable[..., Tensor], given: dict[str, Any], plain: Tensor) -> ReducedLoss:
    """Take part with losses of the user's own, ``given`` the arguments of :func:`weighted`.

    Raises:
        ValueError: their shapes do not fit together.
    """
    losses, logits, target = given["losses"], given["logits"], given["target"].detach()
    soft = target.is_floating_point() and target.shape == logits.shape
    labels = target.argmax(dim=1) if soft and target.ndim == 2 else target
    if not _fit_together(losses, logits, labels) or labels.is_floating_point():
        raise ValueError(
            f"weighted(losses, logits, target) got losses {list(losses.shape)}, logits {list(logits.shape)} and target "
            f"{list(target.shape)} of {target.dtype}; they must be [B], [B, C] and [B] of class indices, or [B, C] of "
            "class probabilities."
        )
    return ReducedLoss(losses, 1, samples_of(losses, logits, labels, one_label=not soft))


def _fit_together(losses: Tensor, logits: Tensor, target: Tensor) -> bool:
    return losses.ndim == 1 and logits.ndim == 2 and target.shape == losses.shape and len(logits) == len(losses)


def samples_of(losses: Tensor, logits: Tensor, target: Tensor, one_label: bool = True) -> Samples:
    """The samples of losses [B], logits [B, C] and class indices [B]."""
    valid = target != -100  # torch's default label of a sample to ignore
    return Samples(losses, logits, target.where(valid, 0).long(), valid=valid, one_label=one_label)


def explicit_samples(output: Mapping[str, Any]) -> tuple[Tensor, Samples]:
    """The losses [B], with their graph, and the samples of a step's dict; an error names what is wrong with it."""
    missing = [key for key in ("loss", "losses", "logits", "target") if not isinstance(output.get(key), Tensor)]
    if missing:
        raise MisconfigurationException(
            "The step returned a dict with per-sample 'losses' but without a tensor "
            f"{' and '.join(map(repr, missing))}. {THREE_WAYS}"
        )
    losses, logits, target = output["losses"], output["logits"], output["target"].detach()
    if not _fit_together(losses, logits, target):
        raise MisconfigurationException(
            f"The step's dict has losses {list(losses.shape)}, logits {list(logits.shape)} and target "
            f"{list(target.shape)}; they must be [B], [B, C] and [B]."
        )
    return losses, samples_of(losses, logits, target)


#: Losses without classes, which an error names.
REGRESSION = (F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss, F.gaussian_nll_loss, F.poisson_nll_loss)
#: The losses that are captured, each with the function that takes it apart; None for those that are only noticed.
TAKE_APART: dict[Callable[..., Any], Callable[..., ReducedLoss] | None] = {
    **dict.fromkeys(REGRESSION),
    F.cross_entropy: class_loss,
    F.nll_loss: class_loss,
    F.binary_cross_entropy_with_logits: binary_loss,
    weighted: own_loss,
}
#: The names of their positional arguments, as the position of ``reduction`` differs.
ARGUMENTS = {loss: tuple(inspect.signature(loss).parameters) for loss in TAKE_APART}


def arguments(func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    """The arguments of a captured loss by name, its reduction said in torch's present words."""
    given = dict(zip(ARGUMENTS[func], args, strict=False)) | dict(kwargs or {})
    if func is weighted or func in REGRESSION:
        return given
    average, reduce = given.pop("size_average", None), given.pop("reduce", None)
    if average is not None or reduce is not None:  # they go before reduction
        given["reduction"] = "none" if reduce is False else "sum" if average is False else "mean"
    return {"reduction": "mean"} | given


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
