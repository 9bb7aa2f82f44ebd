"""Training data without the samples whose labels are likely wrong, or with other labels for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset


def cleaned(dataset: Dataset[Any], suspects: Iterable[Mapping[str, Any]], relabel: bool = False) -> Dataset[Any]:
    """Leave the suspects of a training out of its dataset, or give them the labels that it predicted.

    Args:
        dataset: That of the training loader, with samples ``(input, label)``.
        suspects: Records of :meth:`~law_lightning.callbacks.weighting.WeightingCallback.suspects`.
        relabel: Whether to relabel them; by default they are left out.

    Raises:
        ValueError: A suspect is no sample of the dataset, or every sample is to be left out.
    """
    labels = {int(each["index"]): int(each["predicted"]) for each in suspects}
    size = len(dataset)  # type: ignore[arg-type]
    if beyond := [index for index in labels if not 0 <= index < size]:
        raise ValueError(f"Suspect {beyond[0]} is none of the dataset's {size} samples: give the dataset they are of.")
    if relabel:
        return _Relabelled(dataset, labels)
    if len(labels) == size:
        raise ValueError(f"All {size} samples are suspects, so none would be left: name fewer, or relabel them.")
    return Subset(dataset, [index for index in range(size) if index not in labels])


class _Relabelled(Dataset[Any]):
    """A dataset of which the samples ``replaced`` names have these labels in place of their own."""

    def __init__(self, dataset: Dataset[Any], replaced: Mapping[int, int]) -> None:
        self.dataset = dataset
        self.replaced = replaced

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Any:
        return self._relabelled(index, self.dataset[index])

    def __getitems__(self, indices: Sequence[int]) -> Any:
        """The samples as a list; or as a batch, inputs [B, ...] and labels [B], if the dataset gives them so."""
        if not hasattr(self.dataset, "__getitems__"):
            return [self[index] for index in indices]
        batch = self.dataset.__getitems__(indices)
        if isinstance(batch, list):
            return [self._relabelled(*each) for each in zip(indices, batch, strict=True)]
        x, y = batch
        return x, torch.tensor([self.replaced.get(*each) for each in zip(indices, y.tolist(), strict=True)])

    def _relabelled(self, index: int, sample: Any) -> Any:
        x, y = sample
        label = self.replaced.get(index, y)
        return x, torch.as_tensor(label, dtype=y.dtype) if isinstance(y, Tensor) else label
