"""Class-Balanced loss (Cui et al., CVPR 2019, arXiv 1901.05555) as a weighting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor
from torch.utils.data import DataLoader, Subset, SubsetRandomSampler

from law_lightning.capture.samples import Samples
from law_lightning.stages.schedule import TrainingPhase
from law_lightning.utilities.randomness import replaying
from law_lightning.utilities.stored_labels import STORED, labels_of
from law_lightning.weighting.base import BaseWeighting

#: Samplers that draw a whole data set, by name, as torchdata has classes of its own with these names. On several
#: processes Lightning wraps any other sampler in a DistributedSamplerWrapper.
WHOLE = ("RandomSampler", "SequentialSampler", "DistributedSampler", "StatefulDistributedSampler")


def class_balanced_weights(counts: Tensor, beta: float) -> Tensor:
    r"""One weight for each class, by the effective number of its samples (Equation 2 and Section 4 of the paper).

    .. math:: \alpha_c = C \frac{1 / E_c}{\sum_k 1 / E_k}, \qquad E_c = \frac{1 - \beta^{n_c}}{1 - \beta}

    The weights sum up to C, the number of classes.

    Args:
        counts: training samples :math:`n_c` of each class, [C], each at least 1; :math:`E_c` is their effective number.
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
            which needs them as its ``targets``, ``labels`` or ``y`` (a ``target_transform`` is applied), or to be a
            ``TensorDataset``, or a ``Subset`` or ``ConcatDataset`` of such. A batch or more is drawn to check them.

    Attributes:
        counts: training samples of each class; empty until a fit with ``"auto"`` has begun.

    Raises:
        ValueError: ``beta`` is out of its range, or a class has no sample.
    """

    def __init__(self, beta: float = 0.9999, class_counts: Sequence[int] | Literal["auto"] = "auto") -> None:
        if not 0 <= beta < 1:
            raise ValueError(f"beta must be in [0, 1), not {beta}.")
        if isinstance(class_counts, str) and class_counts != "auto":
            raise ValueError(f"class_counts must be 'auto' or the samples of each class, not {class_counts!r}.")
        self.beta = beta
        self.counts = torch.tensor([] if isinstance(class_counts, str) else [int(count) for count in class_counts])
        self._automatic = isinstance(class_counts, str)
        self._weights = torch.empty(0)
        if not self._automatic:
            class_balanced_weights(self.counts, beta)  # names classes without samples

    def start(self, trainer: L.Trainer) -> None:
        """Count the labels of the training data for ``"auto"``; an error says if they cannot be counted."""
        self._weights = torch.empty(0)
        if self._automatic:
            loader: Any = trainer.train_dataloader
            labels = training_labels(loader)
            if labels is None:
                raise MisconfigurationException(
                    "ClassBalancedWeighting cannot count the training labels: the data set of the training loader has "
                    "no 'targets', 'labels' or 'y' and is no TensorDataset, or a sampler of its own decides what is "
                    "drawn. Give the numbers: ClassBalancedWeighting(class_counts=[...])."
                )
            if not loader_gives(loader, labels):
                raise MisconfigurationException(
                    "ClassBalancedWeighting cannot count the training labels: those that the data set of the training "
                    f"loader ({type(loader.dataset).__name__}) stores are not those in the loader's "
                    "batches; its transforms, its __getitem__ or the collate_fn change them. Give the numbers of the "
                    "labels that the network is trained on: ClassBalancedWeighting(class_counts=[...])."
                )
            self.counts = labels[labels >= 0].bincount()

    def __call__(self, samples: Samples, phase: TrainingPhase) -> Tensor:
        """Weights [B]; an error says if the network has another number of classes than the counts."""
        counts, num_classes, device = self.counts, samples.num_classes, samples.loss.device
        if len(self._weights) != num_classes or self._weights.device != device:
            if self._automatic and not len(counts):
                raise MisconfigurationException(
                    "ClassBalancedWeighting(class_counts='auto') counts when a fit begins, as the weighting of a "
                    "WeightingCallback: one that another weighting calls needs class_counts=[...]."
                )
            if self._automatic:  # the last classes may have no sample, which is named
                counts = F.pad(counts, (0, max(num_classes - len(counts), 0)))
            if len(counts) != num_classes:
                raise MisconfigurationException(
                    f"ClassBalancedWeighting has counts of {len(counts)} classes, but the network has {num_classes}: "
                    "give one for each."
                )
            self._weights = class_balanced_weights(counts, self.beta).float().to(device)
        return self._weights[samples.target]


def training_labels(loader: Any) -> Tensor | None:
    """The labels drawn in an epoch, int64 [N]; None where they are not stored, or the user's own sampler decides."""
    sampler = getattr(getattr(loader, "batch_sampler", None), "sampler", None)
    if isinstance(sampler, SubsetRandomSampler):
        return labels_of(Subset(loader.dataset, sampler.indices))
    return labels_of(loader.dataset) if type(sampler).__name__ in WHOLE else None


def loader_gives(loader: Any, labels: Tensor) -> bool:
    """Whether the batches of a loader hold these labels [N] of its samples: tried on some samples of each class.

    The samples come as in training: through ``collate_fn``, and in a worker process if the loader has workers, as a
    data set may open files that must not be shared. The global random states stay as they are.
    """
    first = torch.from_numpy(np.unique(labels.numpy(), return_index=True)[1])  # the first sample of each class
    first = first[:: -(-len(first) // 256)]
    size = getattr(loader.batch_sampler, "batch_size", 1)
    number = size * -(-max(len(first), 32) // size)  # whole batches, as the collate_fn may want them
    rows = torch.cat([first, torch.linspace(0, len(labels) - 1, number).long()])[:number]
    sampler = loader.batch_sampler.sampler
    drawn = torch.as_tensor(sampler.indices)[rows] if isinstance(sampler, SubsetRandomSampler) else rows
    trial: DataLoader[Any] = DataLoader(
        loader.dataset,
        size,
        sampler=drawn.tolist(),
        num_workers=min(loader.num_workers, 1),
        collate_fn=loader.collate_fn,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
    )
    found: list[list[bool]] = []
    with replaying():
        for batch, expected in zip(trial, labels[rows].split(size), strict=True):
            parts = [getattr(batch, name, None) for name in STORED]
            apply_to_collection(batch, Tensor, parts.append)
            found.append([isinstance(part, Tensor) and _are(part, expected) for part in parts])
    return any(map(all, zip(*found, strict=False)))  # one part of the batches, the same in all


def _are(values: Tensor, labels: Tensor) -> bool:
    """Whether a part of a batch is these labels [B]: as numbers, or as the shares [B, C] of the classes."""
    values = values.detach().cpu().double()
    if values.numel() == len(labels):
        return torch.equal(values.flatten(), labels.double())
    if values.ndim != 2 or len(values) != len(labels) or not 0 <= labels.min() <= labels.max() < values.shape[1]:
        return False
    mixed = torch.allclose(values.sum(0), labels.bincount(minlength=values.shape[1]).double(), atol=1e-3)
    return mixed or torch.equal(values.argmax(1), labels)  # mixup keeps the sums of a batch
