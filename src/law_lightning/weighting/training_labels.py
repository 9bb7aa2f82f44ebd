"""The labels that a training is about to see, where its data set keeps them."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.distributed import DistributedSamplerWrapper
from torch import Tensor
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
)

from law_lightning._compat import sampler_within

#: Where data sets keep their labels: torchvision's, our own and those of many others.
_NAMES = ("targets", "labels", "y")


def training_labels(trainer: L.Trainer) -> Tensor | None:
    """The labels that a pass over the training data goes through, int64 [N].

    None where they cannot be had without reading every sample, or where a sampler of the user's decides.
    """
    loader = trainer.train_dataloader
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return None
    sampler: Any = loader.sampler if loader.batch_sampler is None else getattr(loader.batch_sampler, "sampler", None)
    if isinstance(sampler, DistributedSamplerWrapper):  # what Lightning makes of a sampler on several processes
        sampler = sampler_within(sampler)
    labels = labels_of(loader.dataset)
    if labels is None or isinstance(sampler, (RandomSampler, SequentialSampler, DistributedSampler)):
        return labels
    return labels[torch.as_tensor(sampler.indices)] if isinstance(sampler, SubsetRandomSampler) else None


def labels_of(dataset: Any) -> Tensor | None:
    """The labels of a data set, int64 [N], -100 for samples without one; None where it does not keep them."""
    if isinstance(dataset, Subset):
        labels = labels_of(dataset.dataset)
        return None if labels is None else labels[torch.as_tensor(dataset.indices)]
    if isinstance(dataset, ConcatDataset):
        parts = [labels_of(part) for part in dataset.datasets]
        known = [part for part in parts if part is not None]
        return torch.cat(known) if len(known) == len(parts) else None
    if isinstance(dataset, TensorDataset):
        return _as_labels(dataset.tensors[-1], len(dataset))
    for name in _NAMES:
        labels = _as_labels(getattr(dataset, name, None), len(dataset))
        if labels is not None:
            return labels
    return None


def _as_labels(values: Any, count: int) -> Tensor | None:
    """Class indices, or None if the values are something else."""
    if values is None:
        return None
    try:
        labels = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError):
        return None
    whole = not labels.is_floating_point() and not labels.is_complex() and labels.dtype != torch.bool
    fits = labels.shape == (count,) and whole and count > 0
    return labels.long() if fits and bool(((labels >= 0) | (labels == -100)).all()) else None
