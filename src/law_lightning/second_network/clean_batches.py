"""Batches of clean data, for methods that ask which samples help on data with trusted labels."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sized
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch.utils.data import DataLoader, Dataset, IterableDataset

from law_lightning._compat import to_device
from law_lightning.second_network.evaluation import validation_loaders
from law_lightning.second_network.step import StepRecord
from law_lightning.utilities.randomness import derived_seed, replaying

NO_CLEAN_DATA = (
    "{name} needs clean data, with labels that can be trusted: give the Trainer val_dataloaders (or a val_dataloader "
    "in the module or datamodule) whose batches are like the training's, or {name}(clean=DataLoader(...))."
)


def endless_order(count: int, batch_size: int, seeds: tuple[int, ...], first: int) -> Iterator[list[int]]:
    """Batches without an end, each as its number and its indices; a pass's order depends on seeds and number alone."""
    batches = max(count // batch_size, 1)  # whole batches of a pass
    for number in itertools.count(first):
        if number == first or number % batches == 0:
            order = np.random.default_rng([*seeds, number // batches]).permutation(count)
        place = number % batches * batch_size
        yield [number, *order[place : place + batch_size].tolist()]


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

    Raises:
        MisconfigurationException: there are no clean data that can be drawn from at random.
    """

    def __init__(
        self,
        trainer: L.Trainer,
        module: L.LightningModule,
        loader: DataLoader[Any] | None,
        batch_size: int | None,
        seed: int,
        name: str,
    ) -> None:
        self._trainer, self._module = trainer, module
        source = next(iter(validation_loaders(trainer)), None) if loader is None else loader
        if not isinstance(source, DataLoader):
            raise MisconfigurationException(NO_CLEAN_DATA.format(name=name))
        by_index = isinstance(source.dataset, Sized) and not isinstance(source.dataset, IterableDataset)
        self._count = len(source.dataset) if by_index else 0  # type: ignore[arg-type]
        if self._count == 0:
            raise MisconfigurationException(
                f"{name} draws clean batches at random, so the clean data set must be one that is read by index and "
                f"holds samples, not {type(source.dataset).__name__}."
            )
        self._source = source
        self._batch_size = batch_size or _size_of(trainer.train_dataloader) or _size_of(source) or 1
        self._seeds = (8_005, seed % 2**32, trainer.global_rank)
        self._takes_index = is_param_in_hook_signature(module.training_step, "batch_idx", min_args=2)
        self._batches: Iterator[Any] | None = None

    def take(self, number: int) -> StepRecord:
        """A batch as the arguments of ``training_step``, on the training's device.

        Args:
            number: of the batch, from 0; the next one at every call, any one after :meth:`close`.
        """
        with replaying():  # loading may draw random numbers
            if self._batches is None:
                self._batches = iter(self._loader(number))
            batch = to_device(self._trainer, self._module, next(self._batches))
        return StepRecord((batch, 0) if self._takes_index else (batch,), {})

    def close(self) -> None:
        """End the loader's processes; what is taken after this is loaded by new ones."""
        self._batches = None

    def _loader(self, first: int) -> DataLoader[Any]:
        source, size = self._source, min(self._batch_size, self._count)
        return DataLoader(
            _Seeded(source.dataset, self._seeds),
            batch_sampler=endless_order(self._count, size, self._seeds, first),
            num_workers=source.num_workers,
            collate_fn=source.collate_fn,
            pin_memory=source.pin_memory,
            worker_init_fn=source.worker_init_fn,
            multiprocessing_context=source.multiprocessing_context,
            prefetch_factor=source.prefetch_factor,
            timeout=source.timeout,
        )


def _size_of(loader: Any) -> int | None:
    """The batches' size, whether a loader has it itself or in its sampler of batches; None where neither says."""
    size: int | None = getattr(loader, "batch_size", None)
    return size or getattr(getattr(loader, "batch_sampler", None), "batch_size", None)
