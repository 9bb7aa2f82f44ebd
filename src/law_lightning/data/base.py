"""The base of all data modules: clean test labels, optional corruption, loaders, checks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Self

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, StackDataset, Subset

from law_lightning.data.cleaned import cleaned
from law_lightning.data.corruption import Corruption, CorruptionRecord
from law_lightning.data.corruption.base import check_labels
from law_lightning.data.preparation import check_at_least, permuted_indices

Batch = tuple[Tensor, Tensor]


class LabelledDataModule(L.LightningDataModule):
    """Serves training, validation and test data with one label a sample.

    Test labels stay clean, and so do validation labels unless they are to be corrupted too. The order of the training
    batches comes from torch's global random state, so ``seed_everything`` decides it.

    Args:
        batch_size: Training samples a batch; the last batch of an epoch may be smaller.
        eval_batch_size: Validation and test samples a batch.
        corruption: Called once as ``corruption(train_labels, num_classes)``; the record it returns says which
            samples are trained on and with what labels. None trains on the true labels of all.
        num_workers: Loader processes.
        corrupt_validation: Whether the corruption, which then must keep all samples, replaces validation labels too:
            most people's are as noisy as their training labels.
    """

    #: Makes a batch of samples; None is torch's default.
    collate_fn: Callable[[Any], Any] | None = None

    def __init__(
        self,
        batch_size: int = 64,
        eval_batch_size: int = 1024,
        corruption: Corruption | Callable[[Tensor, int], CorruptionRecord] | None = None,
        num_workers: int = 0,
        corrupt_validation: bool = False,
    ) -> None:
        super().__init__()
        check_at_least(1, batch_size=batch_size, eval_batch_size=eval_batch_size)
        check_at_least(0, num_workers=num_workers)
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.corruption = corruption
        self.num_workers = num_workers
        self.corrupt_validation = corrupt_validation
        #: What the corruption did, for analysis only; None without a corruption or before ``setup``.
        self.corruption_record: CorruptionRecord | None = None
        #: Where the validation data come from, if they are not the data set's own; known after ``setup``.
        self.validation_note: str | None = None
        self._num_classes = 0
        self._rows: Tensor | None = None
        self._datasets: dict[str, Dataset[Any]] = {}

    def load_splits(self) -> Any:
        """Return the data, with true labels everywhere. Called once, by :meth:`setup`.

        Returns:
            A dataclass with at least these attributes: ``train_y``, true labels of the training samples, int64 [N];
            ``num_classes``; ``train_rows``, which rows of the data set's training part they are, int64 [N], and
            ``num_rows``, how many rows that part has, both None where that is unknown; ``val_y``, true labels of the
            validation samples.
        """
        raise NotImplementedError(f"{type(self).__name__} must define load_splits().")

    def make_datasets(self, splits: Any, kept: Tensor, labels: Tensor) -> dict[str, Dataset[Any]]:
        """Return the datasets: ``train``, ``val`` (maybe empty), ``test``, and ``clean``: ``train``, not augmented.

        Args:
            splits: What :meth:`load_splits` returned.
            kept: The training samples to train on, int64 [K].
            labels: The labels to train on, int64 [K].
        """
        raise NotImplementedError(f"{type(self).__name__} must define make_datasets().")

    def setup(self, stage: str | None = None) -> None:
        """Load the data and corrupt the training labels; a second call does nothing."""
        if self._datasets:
            return
        splits = self.load_splits()
        kept, labels = torch.arange(len(splits.train_y)), splits.train_y
        if self.corruption is not None:
            # A copy, so that a corruption that works in place cannot change the true labels.
            arguments = [labels.clone(), splits.num_classes]
            if isinstance(self.corruption, Corruption):
                arguments += [splits.train_rows, splits.num_rows]
            record = self.corruption_record = self.corruption(*arguments)
            if len(record.kept) == 0 or int(record.kept[-1]) >= len(labels):
                raise ValueError(
                    f"Of the {len(labels)} training samples the corruption kept {record.kept.tolist()[-10:]}: it must "
                    f"keep one or more, and none above {len(labels) - 1}."
                )
            check_labels(record.labels, splits.num_classes)
            kept, labels = record.kept, record.labels
            if self.corrupt_validation:
                noisy = self.corruption(splits.val_y.clone(), splits.num_classes)
                if len(noisy.kept) < len(splits.val_y):
                    raise ValueError(
                        f"corrupt_validation=True replaces validation labels, but {noisy.name} leaves samples out: use "
                        "label noise alone, or clean validation labels."
                    )
                check_labels(noisy.labels, splits.num_classes)
                splits = replace(splits, val_y=noisy.labels)
        self._num_classes = splits.num_classes
        self._rows = None if splits.train_rows is None else splits.train_rows[kept]
        # The true training labels are in the record alone: the datasets do not hold them.
        self._datasets = self.make_datasets(splits, kept, labels)

    @property
    def num_classes(self) -> int:
        """Number of classes C; known after :meth:`setup`."""
        self._require_setup("num_classes")
        return self._num_classes

    @property
    def in_shape(self) -> tuple[int, ...]:
        """Shape of one input, without the batch dimension; known after :meth:`setup`."""
        self._require_setup("in_shape")
        return tuple(self._datasets["test"][0][0].shape)

    def source(self, index: int) -> dict[str, Any]:
        """Where a sample of the training dataset comes from, as columns of a table; known after :meth:`setup`.

        Args:
            index: Its place in the training dataset, which has the samples in an order of its own.

        Returns:
            ``row``, its place in the data set's training part; empty where that is unknown.
        """
        self._require_setup("source")
        return {} if self._rows is None else {"row": int(self._rows[index])}

    def cleaned(self, suspects: Iterable[Mapping[str, Any]], relabel: bool = False) -> Self:
        """A copy that trains without the suspects of a training, or on the labels that it predicted.

        Args:
            suspects: Records of :meth:`~law_lightning.callbacks.weighting.WeightingCallback.suspects`, of a training
                on these data.
            relabel: Whether to relabel them; by default they are left out.
        """
        self._require_setup("cleaned")
        train, again = cleaned(self._datasets["train"], suspects, relabel), copy.copy(self)
        if isinstance(train, Subset) and self._rows is not None:
            again._rows = self._rows[train.indices]
        again._datasets = {**self._datasets, "train": train}
        again.corruption_record = None  # whose labels they are no more
        return again

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled training batches: inputs [B, ...] and, if there is a corruption, corrupted labels [B]."""
        return self._dataloader("train", self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[Batch] | list[Any]:
        """Validation batches in a fixed order, by default with true labels; none where all data are trained on."""
        loader = self._dataloader("val", self.eval_batch_size, shuffle=False)
        return loader if len(loader) else []

    def test_dataloader(self) -> DataLoader[Batch]:
        """Test batches in a fixed order, with true labels."""
        return self._dataloader("test", self.eval_batch_size, shuffle=False)

    def analysis_dataloader(self) -> DataLoader[Any] | None:
        """The training samples, not augmented, shuffled once: batches ``((x, y), wrong)``; None if none is wrong.

        For analysis, never for training: ``wrong``, bool [B], marks the samples whose label the corruption made wrong.
        """
        self._require_setup("analysis_dataloader")
        if self.corruption_record is None or len(self.corruption_record.indices) == 0:
            return None
        wrong = torch.zeros(len(self.corruption_record.labels), dtype=torch.bool)
        wrong[self.corruption_record.indices] = True
        mixed = permuted_indices(len(wrong), seed=0).tolist()  # features are normalised within a batch
        samples: Dataset[Any] = StackDataset(self._datasets["clean"], wrong)  # type: ignore[arg-type]
        return DataLoader(samples, self.batch_size, sampler=mixed)

    def _dataloader(self, split: str, batch_size: int, shuffle: bool) -> DataLoader[Batch]:
        self._require_setup(f"{split}_dataloader")
        return DataLoader(
            self._datasets[split],
            batch_size=batch_size,
            shuffle=shuffle,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            collate_fn=self.collate_fn,
        )

    def _require_setup(self, name: str) -> None:
        if not self._datasets:
            raise RuntimeError(f"{type(self).__name__}.{name} is not known yet: call setup() first.")
