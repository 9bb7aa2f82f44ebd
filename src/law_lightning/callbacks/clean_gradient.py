"""What L2RW and Meta-Weight-Net share: clean batches, and a probe that asks which samples help on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning as L
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.utils.data import DataLoader

from law_lightning.callbacks.checks import refuse_second_network
from law_lightning.callbacks.resume import refuse_ended
from law_lightning.callbacks.weighting import WeightingCallback
from law_lightning.capture.loss_capture import LossCapture, Weigh
from law_lightning.capture.samples import Samples
from law_lightning.second_network.clean_batches import CleanBatches
from law_lightning.second_network.layers import LayerCapture, LayerOutputs
from law_lightning.second_network.probe import Mode, Probe
from law_lightning.second_network.reference import StepRecord
from law_lightning.stages.schedule import TrainingPhase


def _ones(samples: Samples, phase: TrainingPhase) -> None:
    """The callback itself weighs."""


class CleanGradientCallback(WeightingCallback):
    """Weighs by gradients on clean data; a subclass says how.

    Args:
        clean: a loader of data whose labels can be trusted, batched like the training's; None takes the Trainer's
            first validation loader. It is drawn from at random, in batches of the training's size.
        clean_batch_size: another size of the clean batches.
        products: how inner products of gradients are found: ``"forward"``, or ``"double_backward"`` for networks with
            operators that have no forward-mode derivative.
        seed: of the clean batches' order.
        num_stages: of the history's records.
        warmup_stages: the first stages, in which every sample weighs 1.
        smoothing: see :class:`WeightingCallback`.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        clean: DataLoader[Any] | None = None,
        *,
        clean_batch_size: int | None = None,
        products: Mode = "forward",
        seed: int = 0,
        num_stages: int = 20,
        warmup_stages: int = 0,
        smoothing: float = 0.5,
    ) -> None:
        super().__init__(_ones, num_stages=num_stages, warmup_stages=warmup_stages, smoothing=smoothing)
        if products not in ("forward", "double_backward"):
            raise ValueError(f"products must be 'forward' or 'double_backward', not {products!r}.")
        if clean is not None and not isinstance(clean, DataLoader):
            raise ValueError(f"clean must be a DataLoader or None, not {clean!r}.")
        if clean_batch_size is not None and clean_batch_size < 1:
            raise ValueError(f"clean_batch_size must be at least 1, not {clean_batch_size}.")
        self.clean = clean
        self.clean_batch_size = clean_batch_size
        self.products = products
        self.seed = seed
        self._batches: CleanBatches | None = None
        self._probe: Probe | None = None
        self._record: StepRecord | None = None
        self._layers: LayerOutputs | None = None
        self._position = 0

    # -- before training -----------------------------------------------------------------------------------

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse what cannot work, before anything runs."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            refuse_second_network(trainer, pl_module, type(self).__name__)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Find the clean data and try a batch of them, before the first step."""
        name = type(self).__name__
        self._batches = CleanBatches(trainer, pl_module, self.clean, self.clean_batch_size, self.seed, name)
        self._probe = Probe(trainer, pl_module, self.products)
        batch = self._batches.take()
        try:
            gradient = self._probe.gradient(batch)
        except Exception as error:
            raise MisconfigurationException(
                f"{name} gives clean batches to {type(pl_module).__name__}.training_step, which failed on one: "
                f"{error!r}. Clean batches must be like those of the training: give another loader as clean=..."
            ) from error
        self._probe.products(batch, gradient)  # names what cannot be differentiated
        self._batches = CleanBatches(trainer, pl_module, self.clean, self.clean_batch_size, self.seed, name)
        super().on_train_start(trainer, pl_module)

    # -- steps ---------------------------------------------------------------------------------------------

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Take over what the module keeps in objects of its own; the rest is taken over at every step."""
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        if batch_idx == 0 and self._probe is not None:
            self._probe.renew()

    def before_step(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note what the step begins with."""
        self._position = 0
        self._record = None if self.in_warmup else StepRecord.of(args, kwargs)

    def capture(self, weigh: Weigh, **options: Any) -> LossCapture:
        """The pass with dual numbers runs over the same step: what its layers gave need not be found again."""
        if self._record is None or self.products == "double_backward":
            return super().capture(weigh, **options)
        capture = LayerCapture(weigh, **options)
        self._layers = capture.layers
        return capture

    def after_step(self, capture: LossCapture) -> None:
        """What the layers gave was of this step."""
        self._layers = None

    def products_along(self, direction: Sequence[Tensor]) -> list[Tensor]:
        """How much the losses of this step's samples change along a direction: [B] for each loss of its own target."""
        assert self._probe is not None
        assert self._record is not None
        return self._probe.products(self._record, direction, self._layers)

    def _weights(self, samples: Samples) -> Tensor | None:
        if self._record is None:
            return None
        position, self._position = self._position, self._position + 1
        return self.weights(samples, position)

    def weights(self, samples: Samples, position: int) -> Tensor | None:
        """The weights [B] of a step's loss.

        Args:
            samples: what the step revealed.
            position: which of the step's losses it is, from 0.
        """
        raise NotImplementedError

    def shared(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The mean of each tensor over all processes."""
        assert self._probe is not None
        return self._probe.shared(tensors)

    # -- afterwards ----------------------------------------------------------------------------------------

    def restore(self, module: L.LightningModule) -> None:
        """Leave the user's module as it was, and no process that loads clean data; how many were taken is kept."""
        super().restore(module)
        self._layers = None
        if self._batches is not None:
            self._batches.close()

    def release(self) -> None:
        """Let go of the copy and of the clean data."""
        super().release()
        self._batches = self._probe = self._record = self._layers = None

    # -- state ---------------------------------------------------------------------------------------------

    def fit_state(self) -> dict[str, Any]:
        """Everything that the rest of the run depends on: tensors and plain Python."""
        state = super().fit_state()
        return state if self._batches is None else state | {"clean_taken": self._batches.taken}

    def _resume(self, trainer: L.Trainer, module: L.LightningModule, state: dict[str, Any]) -> None:
        refuse_ended(type(self).__name__, state)
        super()._resume(trainer, module, state)
        assert self._batches is not None
        self._batches.taken = state["clean_taken"]
