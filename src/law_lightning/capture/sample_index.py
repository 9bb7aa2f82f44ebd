"""Which samples of the training data a batch holds, without a change of the dataset or the loader."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import lightning as L
import torch
from torch import Tensor

from law_lightning._compat import drawn_index, ignore_drawn, note_drawn
from law_lightning.capture.samples import Samples
from law_lightning.utilities.randomness import replaying
from law_lightning.utilities.stored_labels import labels_of

#: Why samples are not known by their index.
UNSEEN = "no loss was seen whose samples have classes"
UNKNOWN_BATCH = (
    "the training loader does not show which samples a batch holds (an IterableDataset, several loaders, one that "
    "makes its batches itself, in_order=False, or a sampler of keys that are not below the dataset's length)"
)
UNKNOWN_ROWS = (
    "no loss has the batch's samples as its rows (its labels are none of the batch's tensors: other rows or other "
    "labels, as of mixup, or another number of them)"
)
REORDERED = (
    "the batches have their samples in another order than that in which the loader drew them (the collate_fn or a hook "
    "such as on_after_batch_transfer sorts or permutes them)"
)


class SampleIndex:
    """What the training loader's batch sampler yielded for the present batch.

    It is drawn in the main process in the order of the batches, also with loader workers and DistributedSampler.

    Attributes:
        why_unknown: why the last loss that was asked for has no index; None if it has, or if nothing was begun.
    """

    def __init__(self) -> None:
        self.why_unknown: str | None = None
        self._trainer: L.Trainer | None = None
        self._parts: list[Tensor] = []
        self._index: Tensor | None = None
        self._dataset: Any = None
        self._in_order: bool | None = None  # None: not yet compared

    def open(self, trainer: L.Trainer) -> None:
        """Begin to note; before the Trainer makes its loaders' iterators."""
        self._trainer, self.why_unknown, self._in_order = trainer, UNSEEN, None
        note_drawn(self)

    def close(self) -> None:
        """Leave all iterators as they were; may be called more than once."""
        self._trainer, self._parts, self._index, self._dataset = None, [], None, None
        ignore_drawn(self)

    def __getstate__(self) -> dict[str, Any]:
        return vars(SampleIndex()) | {"why_unknown": self.why_unknown}

    def begin_step(self, arguments: tuple[Any, ...]) -> None:
        """A ``training_step`` is about to be called with these arguments."""
        drawn, self._dataset = (None, None) if self._trainer is None else drawn_index(self._trainer)
        self._index = index = _as_index(drawn, self._dataset)
        self._parts = [] if index is None else [part for part in _tensors(arguments) if part.shape[:1] == index.shape]

    def end_step(self) -> None:
        """It was; the batch is not kept until the next one, which would take memory for both."""
        self._parts = []

    def of(self, target: Tensor, samples: Samples) -> Tensor | None:
        """The samples' index into the dataset, [B]; None where it is not known.

        Args:
            target: what the loss was called with.
            samples: of that loss.
        """
        if self._index is None or not self._parts:
            self.why_unknown = UNKNOWN_BATCH
            return None
        if len(samples) != len(self._index) or not self._has_rows_of_batch(target, samples):
            self.why_unknown = UNKNOWN_ROWS
            return None
        if self._in_order is None:
            self._in_order = self._are_in_order(samples)
        if not self._in_order:
            self.why_unknown = REORDERED
            return None
        self.why_unknown = None
        return self._index.to(samples.loss.device, non_blocking=True)

    def _are_in_order(self, samples: Samples) -> bool:
        """False for labels that are those which the dataset stores for the batch, but in another order."""
        try:
            with replaying():  # a target_transform may draw
                stored = labels_of(self._dataset)
        except Exception:  # or fail in any way, as it may not give classes
            stored = None
        if stored is None:
            return True
        valid = slice(None) if samples.valid is None else samples.valid.cpu()
        expected, given = stored[self._index][valid], samples.target.cpu()[valid]
        return torch.equal(expected, given) or not torch.equal(expected.sort().values, given.sort().values)

    def _has_rows_of_batch(self, target: Tensor, samples: Samples) -> bool:
        """Whether the labels are those of the batch, row for row: a view of one of its tensors, or the same numbers."""
        if any(_rows_of(target, part) for part in self._parts):
            return True
        label, valid = samples.target, samples.valid
        for part in self._parts:
            if part.numel() == len(label) and not part.is_floating_point() and not part.is_complex():
                given = part.reshape(-1).to(label)  # waits for the device
                if bool(((given == label) if valid is None else (given == label) | ~valid).all()):
                    return True
        return False


def _rows_of(view: Tensor, whole: Tensor) -> bool:
    """Whether each row of ``view`` is (part of) the same row of ``whole``, in the same memory."""
    return bool(
        view.ndim > 0
        and view.shape[0] == whole.shape[0]
        and view.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr()
        and view.stride(0) == whole.stride(0)
        and 0 <= view.storage_offset() - whole.storage_offset() < max(whole.stride(0), 1)
    )


def _as_index(drawn: Any, dataset: Any) -> Tensor | None:
    """Indices [B] of one batch; None for what is none, such as keys of another kind."""
    try:
        index = torch.as_tensor(drawn)
        size = len(dataset)
    except (TypeError, ValueError, RuntimeError, NotImplementedError):
        return None
    is_index = index.ndim == 1 and len(index) > 0 and not index.is_floating_point() and not index.is_complex()
    if not is_index or index.dtype == torch.bool or not 0 <= int(index.min()) <= int(index.max()) < size:
        return None
    return index.long()


def _tensors(data: Any) -> Iterator[Tensor]:
    """All tensors in a batch that lie in memory as they are indexed."""
    if isinstance(data, Tensor):
        if data.layout == torch.strided and not data.is_nested:
            yield data
    elif isinstance(data, (Mapping, list, tuple)):
        for each in data.values() if isinstance(data, Mapping) else data:
            yield from _tensors(each)
