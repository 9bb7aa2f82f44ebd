"""What L2RW and Meta-Weight-Net share: gradients on batches of clean data, beside a training."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence, Sized
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor
from torch.nn import Parameter
from torch.utils.data import DataLoader, Dataset, IterableDataset

from law_lightning._compat import to_device
from law_lightning.capture.loss_capture import LossCapture
from law_lightning.capture.part import Part
from law_lightning.second_network.evaluation import validation_loaders
from law_lightning.second_network.second_network import StepRecord
from law_lightning.second_network.shared_copy import Products, SharedCopy
from law_lightning.utilities.randomness import derived_seed, replaying

NO_CLEAN_DATA = (
    "{name} needs clean data, with labels that can be trusted: give the Trainer val_dataloaders (or a val_dataloader "
    "in the module or datamodule) whose batches are like the training's, or {name}(clean=DataLoader(...))."
)
INSTEAD = {
    "forward": "Use products='double_backward', which needs no forward mode, or another operator (for attention, "
    "torch.nn.attention.sdpa_kernel(SDPBackend.MATH)).",
    "double_backward": "Use an operator that can be differentiated twice, or products='forward' if it has a "
    "forward-mode derivative.",
}


class CleanGradient(Part):
    """Gradients on clean data and of the step that is being taken, the means over all processes.

    Args:
        name: of the callback, for errors.
        clean: see :class:`~law_lightning.callbacks.l2rw.L2RWCallback`.
        clean_batch_size: of the clean batches; None takes the training's.
        products: how inner products of gradients are found: ``"forward"``, or ``"double_backward"`` for networks with
            operators that have no forward-mode derivative.
        seed: of the clean batches' order.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        name: str,
        clean: DataLoader[Any] | None = None,
        *,
        clean_batch_size: int | None = None,
        products: Products = "forward",
        seed: int = 0,
    ) -> None:
        if products not in INSTEAD:
            raise ValueError(f"products must be 'forward' or 'double_backward', not {products!r}.")
        if clean is not None and not isinstance(clean, DataLoader):
            raise ValueError(f"clean must be a DataLoader or None, not {clean!r}.")
        if clean_batch_size is not None and clean_batch_size < 1:
            raise ValueError(f"clean_batch_size must be at least 1, not {clean_batch_size}.")
        self._name, self._clean, self._batch_size, self._products = name, clean, clean_batch_size, products
        self._seed, self._taken = seed, 0
        self._count: int | None = None  # of the losses of this step, as the copy found them

    def start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """A fit begins: find the clean data, and try one batch of them.

        Raises:
            MisconfigurationException: there are none, the module's step fails on them, or it cannot be differentiated
                in the way that was chosen.
        """
        self._trainer, self._taken, self._epoch = trainer, 0, -1
        name = f"{type(module).__name__}.training_step"
        source = next(iter(validation_loaders(trainer)), None) if self._clean is None else self._clean
        if not isinstance(source, DataLoader):
            raise MisconfigurationException(NO_CLEAN_DATA.format(name=self._name))
        data = source.dataset
        if isinstance(data, IterableDataset) or not isinstance(data, Sized) or len(data) == 0:
            raise MisconfigurationException(
                f"{self._name} draws clean batches at random, so the clean data set must be one that is read by index "
                f"and holds samples, not {type(data).__name__}."
            )
        self._copy = SharedCopy(trainer, module, self._products)
        self._batches = CleanBatches(trainer, module, source, self._batch_size, self._seed)
        batch = self._batches.take(0)
        try:
            gradient = self._copy.gradient(batch)
        except Exception as error:
            raise MisconfigurationException(
                f"{self._name} gives clean batches to {name}, which failed on one: {error!r}. Clean batches must be "
                "like those of the training: give another loader as clean=..."
            ) from error
        try:
            self._copy.products(batch, gradient, check=True)
        except Exception as error:
            raise MisconfigurationException(
                f"{self._name} cannot differentiate {name} with products={self._products!r}: {error!r}. "
                + INSTEAD[self._products]
            ) from error

    def before_step(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Record what the training's step begins with."""
        if self._epoch != self._trainer.current_epoch:
            self._epoch = self._trainer.current_epoch
            self._copy.renew()
        self._step, self._asked, self._count = StepRecord(args, kwargs).copy(), False, None

    def after_step(self, capture: LossCapture) -> None:
        """Refuse products that may be of other losses than those of the step.

        Raises:
            MisconfigurationException: the copy, whose losses have no graph, could not tell them apart.
        """
        if self._count not in (None, len(capture.samples)):
            raise MisconfigurationException(
                f"{self._name} finds {self._count} losses in forward mode, but {len(capture.samples)} in the step: "
                "weighted() gets losses that are computed from a torch loss on another target tensor. Give weighted() "
                "the target that the torch loss has, or use products='double_backward'."
            )

    def begins_step(self) -> bool:
        """Whether this is the first call in the present step: a step may have several losses."""
        first, self._asked = not self._asked, True
        return first

    def close(self) -> None:
        """Release the copy, the clean data and the processes that load them."""
        for name in ("_trainer", "_copy", "_batches", "_step"):
            vars(self).pop(name, None)

    def state_dict(self) -> dict[str, Any]:
        """How many clean batches were taken; the later ones depend on this alone."""
        return {"taken": self._taken}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state returned by :meth:`state_dict`."""
        self._taken = state["taken"]

    def parameters(self) -> list[Parameter]:
        """The module's parameters that are trained: one tensor of a gradient for each."""
        return self._copy.parameters()

    def next_gradient(self, at: Sequence[Tensor] | None = None) -> list[Tensor]:
        """The gradient of the loss on the next clean batch.

        Args:
            at: parameters to take it at, as :meth:`parameters`; by default the module's.
        """
        batch = self._batches.take(self._taken)
        self._taken += 1
        return self.mean(self._copy.gradient(batch, at))

    def step_gradient(self, loss: Tensor) -> list[Tensor]:
        """The gradient of a loss [] of the training's own step, whose graph stays.

        Raises:
            MisconfigurationException: the network was compiled to free its graph.
        """
        try:
            return self.mean(self._copy.gradient_of(loss, self.parameters(), retain_graph=True))
        except RuntimeError as error:
            if "donated buffer" not in str(error):
                raise
            raise MisconfigurationException(
                f"{self._name} takes two gradients of the training's loss, and the network was compiled to free what "
                "its backward pass needs after one: set torch._functorch.config.donated_buffer = False first."
            ) from error

    def products(self, direction: Sequence[Tensor]) -> list[Tensor]:
        """Inner products of the gradients of this step's samples with a direction: [B] for each of its losses."""
        products = self._copy.products(self._step, direction)
        self._count = len(products)
        return products

    def mean(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The mean of each tensor over all processes of the Trainer, all in one reduction."""
        if self._trainer.world_size == 1:
            return list(tensors)
        whole = self._trainer.strategy.reduce(torch.cat([each.flatten() for each in tensors]), reduce_op="mean")
        parts = whole.split([each.numel() for each in tensors])
        return [part.view_as(each) for part, each in zip(parts, tensors, strict=True)]


class CleanBatches:
    """An endless sequence of shuffled batches of clean data, ready for ``training_step``.

    A batch depends on the seed and its number alone: its samples, and what augmentation draws while it is loaded. With
    ``batch_size`` None they have the size of the training's batches. ``source`` is read by index.
    """

    def __init__(
        self, trainer: L.Trainer, module: L.LightningModule, source: DataLoader[Any], batch_size: int | None, seed: int
    ) -> None:
        self._trainer, self._module, self._source = trainer, module, source
        self._size = batch_size or _size_of(trainer.train_dataloader) or _size_of(source) or 1
        self._seeds = (8_005, seed % 2**32, trainer.global_rank)
        self._takes_index = is_param_in_hook_signature(module.training_step, "batch_idx", min_args=2)
        self._next = -1

    def take(self, number: int) -> StepRecord:
        """Batch ``number``, from 0, as the arguments of ``training_step``, on the training's device."""
        with replaying():  # loading may draw random numbers
            if number != self._next:
                self._batches = iter(self._loader(number))
            batch = to_device(self._trainer, self._module, next(self._batches))
        self._next = number + 1
        return StepRecord((batch, 0) if self._takes_index else (batch,))

    def _loader(self, first: int) -> DataLoader[Any]:
        source, count = self._source, len(self._source.dataset)  # type: ignore[arg-type]
        return DataLoader(
            _Seeded(source.dataset, self._seeds),
            batch_sampler=endless_order(count, min(self._size, count), self._seeds, first),
            num_workers=source.num_workers,
            collate_fn=source.collate_fn,
            pin_memory=source.pin_memory,
            worker_init_fn=source.worker_init_fn,
            multiprocessing_context=source.multiprocessing_context,
            prefetch_factor=source.prefetch_factor,
            timeout=source.timeout,
        )


class _Seeded(Dataset[Any]):
    """The user's data set; each batch is loaded from random states of its own, in any process."""

    def __init__(self, dataset: Any, seeds: tuple[int, ...]) -> None:
        self.dataset, self.seeds = dataset, seeds

    def __getitems__(self, batch: list[int]) -> list[Any]:  # which torch calls for a whole batch
        number, *indices = batch
        seed = derived_seed(*self.seeds, number)
        torch.default_generator.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - the global state, which a user's augmentation draws from
        random.seed(seed)
        at_once = getattr(self.dataset, "__getitems__", None)
        return at_once(indices) if at_once else [self.dataset[index] for index in indices]


def endless_order(count: int, batch_size: int, seeds: tuple[int, ...], first: int) -> Iterator[list[int]]:
    """Endless batches, each as its number and indices; a pass's order depends on the seeds and its number alone."""
    batches = max(count // batch_size, 1)  # whole batches of a pass
    for number in itertools.count(first):
        if number == first or number % batches == 0:
            order = np.random.default_rng([*seeds, number // batches]).permutation(count)
        place = number % batches * batch_size
        yield [number, *order[place : place + batch_size].tolist()]


def _size_of(loader: Any) -> int | None:
    """A loader's batch size, its own or that of its batch sampler; None where neither has one."""
    return getattr(loader, "batch_size", None) or getattr(getattr(loader, "batch_sampler", None), "batch_size", None)
