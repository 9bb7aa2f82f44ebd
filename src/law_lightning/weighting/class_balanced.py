"""Class-Balanced loss (Cui et al., CVPR 2019, arXiv 1901.05555) as a weighting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import lightning as L
import torch
from lightning.fabric.utilities.distributed import DistributedSamplerWrapper
from lightning.pytorch.utilities.exceptions import MisconfigurationException
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
from law_lightning.capture.samples import Samples
from law_lightning.stages.schedule import TrainingPhase
from law_lightning.weighting.base import BaseWeighting


def class_balanced_weights(counts: Tensor, beta: float) -> Tensor:
    r"""One weight for each class, by the effective number of its samples (Equation 2 and Section 4 of the paper).

    .. math:: \alpha_c = C \frac{1 / E_c}{\sum_k 1 / E_k}, \qquad E_c = \frac{1 - \beta^{n_c}}{1 - \beta}

    where :math:`n_c` is the number of training samples of class c, :math:`E_c` their effective number and C the
    number of classes, to which the weights sum up.

    Args:
        counts: n_c, [C], each at least 1.
        beta: in [0, 1): 0 weighs all classes alike, near 1 by the inverse of their counts.

    Returns:
        The weights, float64 [C].

    Raises:
        ValueError: a class has no sample.
    """
    empty = (counts < 1).nonzero().flatten().tolist()
    if empty or not len(counts):
        raise ValueError(
            f"class_counts must be at least 1 for every class, but those of the classes {empty} are not: a class "
            "without samples has no effective number. Leave it out of the network's classes, or give it a count."
        )
    effective = (1 - torch.tensor(beta, dtype=torch.float64) ** counts.double()) / (1 - beta)
    return len(counts) / (effective * effective.reciprocal().sum())


class ClassBalancedWeighting(BaseWeighting):
    """``WeightingCallback(ClassBalancedWeighting())``: samples of rare classes weigh more.

    Args:
        beta: in [0, 1). The paper tried 0.9, 0.99, 0.999 and 0.9999; the last was its best on CIFAR-10.
        class_counts: training samples of each class, [C]; ``"auto"`` counts the labels of the training data set,
            which needs them as its ``targets``, ``labels`` or ``y``, or to be a ``TensorDataset``.

    Attributes:
        counts: training samples of each class; None until a fit with ``"auto"`` has begun.

    Raises:
        ValueError: ``beta`` is out of its range, or a class has no sample.
    """

    def __init__(self, beta: float = 0.9999, class_counts: Sequence[int] | Literal["auto"] = "auto") -> None:
        if not 0 <= beta < 1:
            raise ValueError(f"beta must be in [0, 1), not {beta}.")
        self.beta = beta
        self.counts: Tensor | None = None
        self._weights: Tensor | None = None
        self._automatic = isinstance(class_counts, str)
        if isinstance(class_counts, str):
            if class_counts != "auto":
                raise ValueError(
                    f"class_counts must be 'auto' or the number of samples of each class, not {class_counts!r}."
                )
        else:
            self.counts = torch.tensor([int(count) for count in class_counts])
            class_balanced_weights(self.counts, beta)  # names classes without samples

    def start(self, trainer: L.Trainer) -> None:
        """Count the labels of the training data, for ``"auto"``.

        Raises:
            MisconfigurationException: they cannot be counted.
        """
        self._weights = None
        if self._automatic:
            labels = training_labels(trainer)
            if labels is None:
                raise MisconfigurationException(
                    "ClassBalancedWeighting cannot count the training labels: the data set of the training loader has "
                    "no 'targets', 'labels' or 'y' and is no TensorDataset, or a sampler of its own decides what is "
                    "drawn. Give the numbers: ClassBalancedWeighting(class_counts=[...])."
                )
            self.counts = labels[labels >= 0].bincount()

    def __call__(self, samples: Samples, phase: TrainingPhase) -> Tensor:
        """Weights [B].

        Raises:
            MisconfigurationException: the counts are of other classes than the network's.
        """
        if self._weights is None or self._weights.device != samples.loss.device:
            self._weights = self._by_class(samples.num_classes).to(samples.loss.device)
        return self._weights[samples.target]

    def _by_class(self, num_classes: int) -> Tensor:
        if self.counts is None:
            raise MisconfigurationException(
                "ClassBalancedWeighting(class_counts='auto') counts when a fit begins: use it in a WeightingCallback, "
                "or give the class_counts."
            )
        counts = self.counts
        if self._automatic and len(counts) < num_classes:  # the last classes have no sample
            counts = torch.nn.functional.pad(counts, (0, num_classes - len(counts)))
        if len(counts) != num_classes:
            raise MisconfigurationException(
                f"ClassBalancedWeighting has counts of {len(counts)} classes, but the network has {num_classes}: give "
                "one for each."
            )
        return class_balanced_weights(counts, self.beta).float()


def training_labels(trainer: L.Trainer) -> Tensor | None:
    """The labels of one pass over the training data, int64 [N].

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
    candidates = [getattr(dataset, name, None) for name in ("targets", "labels", "y")]
    for values in dataset.tensors[-1:] if isinstance(dataset, TensorDataset) else candidates:
        try:
            labels = torch.as_tensor(values)
        except (TypeError, ValueError, RuntimeError):  # None, strings, or rows of different lengths
            continue
        whole = not labels.is_floating_point() and not labels.is_complex() and labels.dtype != torch.bool
        if labels.shape == (len(dataset),) and whole and bool(((labels >= 0) | (labels == -100)).all()):
            return labels.long()
    return None
