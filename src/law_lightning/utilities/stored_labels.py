"""The labels that a data set stores, without loading its samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset, TensorDataset

#: Attributes that hold the labels, of data sets and of batches that are objects.
STORED = ("targets", "labels", "y")


def labels_of(dataset: Any) -> Tensor | None:
    """The labels of a data set, int64 [N], negative for samples without one; None where it does not store them."""
    if isinstance(dataset, Subset):
        labels = labels_of(dataset.dataset)
        return None if labels is None else labels[torch.as_tensor(dataset.indices)]
    if isinstance(dataset, ConcatDataset):
        parts = [part for each in dataset.datasets if (part := labels_of(each)) is not None]
        return torch.cat(parts) if len(parts) == len(dataset.datasets) else None
    stored = [getattr(dataset, name, None) for name in STORED]
    for values in dataset.tensors[-1:] if isinstance(dataset, TensorDataset) else stored:
        try:
            labels = torch.as_tensor(values, device="cpu")  # a small data set may be on an accelerator
        except (TypeError, ValueError, RuntimeError):  # None, strings, or rows of different lengths
            continue
        if labels.shape == (len(dataset),) and not labels.is_floating_point():
            return transformed(labels.long(), getattr(dataset, "target_transform", None))
    return None


def transformed(labels: Tensor, transform: Callable[[int], Any] | None) -> Tensor | None:
    """The labels [N] after torchvision's ``target_transform``; None where it gives no classes."""
    if transform is None:
        return labels
    distinct, place = labels.unique(return_inverse=True)
    given = torch.stack([torch.as_tensor(transform(label)) for label in distinct.tolist()])
    given = given.argmax(1) if given.ndim == 2 else given  # one-hot
    return given.long()[place] if given.ndim == 1 and bool((given == given.long()).all()) else None
