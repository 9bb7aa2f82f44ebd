"""Warnings about the losses of the first step of a fit, where weights do not mean what one expects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from law_lightning.capture.losses import REGRESSION
from law_lightning.capture.samples import Samples

_FEWEST = 4  # fewer labels may be 0, 1, 2, ... by chance


def why_none(left: set[str]) -> str:
    """Why a step reveals no per-sample loss, by the names of functions that were left alone; may be empty."""
    without_classes = sorted(left & {each.__name__ for each in REGRESSION})
    without_gradient = sorted(left - set(without_classes))
    found = ""
    if without_classes:
        found += (
            f"It calls {' and '.join(without_classes)}, a loss without classes, and LAW needs some: its features and "
            "statistics are made of logits and class labels. With weighted, below, such a loss takes part if you can "
            "give scores [B, C] and labels [B], of ranges of the target for instance; its own losses enter too, but "
            "margin, entropy, label and accuracy are then those of the ranges. "
        )
    if without_gradient:
        found += (
            f"It calls {' and '.join(without_gradient)} where gradients are disabled: by torch.no_grad, or by "
            "torch.utils.checkpoint with use_reentrant=True, instead of which use_reentrant=False works. "
        )
    return found


def warn_of_samples(name: str, samples: Sequence[Samples], arguments: Sequence[Any]) -> None:
    """Warn of samples that are not those of the batch, or have no classes.

    Waits for the device, where labels have to be looked at.

    Args:
        name: of the step.
        samples: of each loss.
        arguments: what the step was called with.
    """
    parts = [part for argument in arguments for part in _parts(argument)]
    tensors = [part for part in parts if isinstance(part, Tensor) and part.ndim]
    lists = [part for part in parts if not isinstance(part, Tensor)]
    largest = max((len(each) for each in samples), default=0)
    sizes = [part.size(0) for part in tensors]  # nested tensors have no len
    size = max(sizes + [len(part) for part in lists], default=0)
    if largest == 1:
        rank_zero_warn(
            f"In the first call of {name} every loss that LAW sees has one sample. Weights that compare the samples of "
            "a batch with one another (standardised features, weights whose mean is 1, a choice of small losses) are "
            "then constants that only scale the learning rate. Use a larger batch_size (accumulate_grad_batches does "
            "not help), or one loss for all samples of the batch instead of one for each."
        )
    elif any(_numbers_the_batch(each, tensors) for each in samples):
        rank_zero_warn(
            f"{name} makes up the labels of a loss: they number the samples of the batch, as in a contrastive loss. "
            "There are no classes then: a sample's weight depends on how well the network finds its counterpart in the "
            "batch, and LAW's labels, class counts and accuracies mean no more than that."
        )
    elif tensors and largest > size:
        rank_zero_warn(
            f"A loss of {name} has {largest} rows, but the batch {size} samples. LAW gives each row (a position, "
            "a view, an anchor, a proposal) a weight of its own, by its own logits and label: no weight is that of a "
            "sample of the data. For one weight per sample, call weighted(), from law_lightning, with one loss per "
            "sample."
        )


def warn_of_share(name: str, share: float) -> None:
    """Warn that less than half of what a step returns is weighted."""
    rank_zero_warn(
        f"Only {share:.1%} of the loss that {name} returned in its first step is weighted. The rest does not come from "
        "losses that LAW sees, and trains on as it would without LAW. Let it take part by "
        "weighted(losses, logits, target), from law_lightning, on its per-sample losses; or leave it, if it should act "
        "on all samples alike."
    )


def _parts(data: Any) -> Iterator[Any]:
    """All tensors, lists and tuples in a batch."""
    if isinstance(data, (Tensor, list, tuple)):
        yield data
    if isinstance(data, (Mapping, list, tuple)):
        for each in data.values() if isinstance(data, Mapping) else data:
            yield from _parts(each)


def _numbers_the_batch(samples: Samples, batch: Sequence[Tensor]) -> bool:
    """Whether labels are 0, 1, 2, ... (from any first, perhaps twice over), or one label of more classes than samples.

    Labels that came with the batch are those of the data, whatever they are.
    """
    label, count = samples.target, len(samples)
    if count < _FEWEST:
        return False
    steps = label - label.min()
    order = torch.arange(count, device=label.device)
    numbered = torch.equal(steps, order) or (count % 2 == 0 and torch.equal(steps, order % (count // 2)))
    constant = samples.num_classes > count and not steps.any()  # the counterpart is the first of a long list
    if not numbered and not constant:
        return False
    given = (each for each in batch if each.numel() == count and not each.is_floating_point())
    return not any(torch.equal(each.flatten().to(label), label) for each in given)
