"""Batches of clean data, for methods that ask which samples help on data with trusted labels."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from law_lightning._compat import to_device
from law_lightning.second_network.evaluation import validation_loaders
from law_lightning.second_network.step import StepRecord
from law_lightning.utilities.randomness import derived_seed, replaying

NO_CLEAN_DATA = (
    "{name} needs clean data, with labels that can be trusted: give the Trainer val_dataloaders (or a val_dataloader "
    "in the module or datamodule) whose batches are like the training's, or {name}(clean=DataLoader(...))."
)


class _Endless(Sampler[list[int]]):
    """Batches without an end, each as its number and its indices; a pass's order depends on seeds and number alone."""

    def __init__(self, count: int, batch_size: int, seeds: tuple[int, ...], first: int) -> None:
        self.count, self.batch_size, self.seeds, self.first = count, batch_size, seeds, first

    def __iter__(self) -> Iterator[list[int]]:
        each = max(self.count // self.batch_size, 1)  # whole batches of a pass
        number = self.first
        while True:
            order = np.random.default_rng([*self.seeds, number // each]).permutation(self.count)
            for place in range(number % each, each):
                yield [number, *order[place * self.batch_size : (place + 1) * self.batch_size].tolist()]
                number += 1


class _Seeded(Dataset[Any]):
    """The user's data set, of which each batch is loaded from random states of its own, in whichever process."""

    def __init__(self, dataset: Any, seeds: tuple[int, ...]) -> None:
        self.dataset, self.seeds = dataset, seeds

    def __getitems__(self, batch: list[int]) -> list[Any]:  # as torch asks for a whole batch
        number, *indices = batch
        seed = derived_seed(*self.seeds, number)
        torch.default_generator.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - the global state, which a user's augmentation draws from
        random.seed(seed)
        at_once = getattr(self.dataset, "__getitems__", None)
        return at_once(indices) if at_once else [self.dataset[index] for index in indices]

    def __getattr__(self, name: str) -> Any:
        """What a worker_init_fn may look for."""
        if name.startswith("__") or "dataset" not in vars(self):
            raise AttributeError(name)
        return getattr(self.dataset, name)


class CleanBatches:
    """Shuffled batches of clean data without an end, ready for ``training_step``.

    A batch depends on the seed and its number alone: its samples, and what augmentation draws while it is loaded.

    Args:
        trainer: the Trainer, at the start of a fit.
        module: the user's module.
        loader: the clean data; None takes the first of the Trainer's validation loaders.
        batch_size: by default that of the training's loader.
        seed: of the order, and of augmentation.
        name: of the callback, for errors.

    Attributes:
        taken: batches so far; set it to go on from there.

    Raises:
        MisconfigurationException: there are no clean data.
    """

    def __init__(
        self,
        trainer: L.Trainer,
        module: L.LightningModule,
        loader: Any,
        batch_size: int | None,
        seed: int,
        name: str,
    ) -> None:
        self._trainer, self._module = trainer, module
        loaders = validation_loaders(trainer) if loader is None else [loader]
        if not loaders or not isinstance(loaders[0], DataLoader):
            raise MisconfigurationException(NO_CLEAN_DATA.format(name=name))
        source: DataLoader[Any] = loaders[0]
        at_random = not isinstance(source.dataset, IterableDataset) and hasattr(source.dataset, "__len__")
        self._count = len(source.dataset) if at_random else 0  # type: ignore[arg-type]
        if self._count < 1:
            raise MisconfigurationException(
                f"{name} draws clean batches at random, so the clean data set must be one that is read by index and "
                f"holds samples, not {type(source.dataset).__name__}."
            )
        self._source = source
        self._batch_size = batch_size or _size_of(trainer.train_dataloader) or _size_of(source) or 1
        self._seeds = (8_005, seed % 2**32, trainer.global_rank)
        self._takes_index = is_param_in_hook_signature(module.training_step, "batch_idx", min_args=2)
        self.taken = 0
        self._batches: Iterator[Any] | None = None

    def close(self) -> None:
        """End the loader's processes; what is taken after this is loaded by new ones."""
        self._batches = None

    def take(self) -> StepRecord:
        """The next batch as the arguments of ``training_step``, on the training's device."""
        trainer, module = self._trainer, self._module
        with replaying():  # loading may draw random numbers
            if self._batches is None:
                source = self._source
                sampler = _Endless(self._count, min(self._batch_size, self._count), self._seeds, self.taken)
                self._batches = iter(
                    DataLoader(
                        _Seeded(source.dataset, self._seeds),
                        batch_sampler=sampler,
                        num_workers=source.num_workers,
                        collate_fn=source.collate_fn,
                        pin_memory=source.pin_memory,
                        worker_init_fn=source.worker_init_fn,
                        multiprocessing_context=source.multiprocessing_context,
                        prefetch_factor=source.prefetch_factor,
                        timeout=source.timeout,
                    )
                )
            batch = next(self._batches)
            batch = to_device(trainer, module, batch)
        self.taken += 1
        return StepRecord((batch, 0) if self._takes_index else (batch,), {})


def _size_of(loader: Any) -> int | None:
    """The batches' size, whether a loader has it itself or in its sampler of batches; None where neither says."""
    size: int | None = getattr(loader, "batch_size", None)
    return size or getattr(getattr(loader, "batch_sampler", None), "batch_size", None)
