"""A second network that lives through the fit beside the user's: the same hooks, the same options of the optimizer."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from law_lightning.callbacks.weighting import WeightingCallback
from law_lightning.second_network.duplicate import duplicate, release
from law_lightning.second_network.reference import Reference, StepRecord, copy_tensors, tensors


class LockstepCallback(WeightingCallback):
    """Takes a step of the second network after each step of the user's.

    A subclass makes ``_second``, notes ``_record`` before a step, and says what :meth:`follow` does.
    """

    second_key: str  #: of the second network's state in a checkpoint
    keep: str  #: "best": which network is in the user's module is chosen when the fit ends
    chosen = False  #: whether it was
    _second: Reference | None = None
    _record: StepRecord | None = None
    _released: L.LightningModule | None = None

    @property
    def second(self) -> L.LightningModule | None:
        """The second network, also when the fit has ended; None before there is one."""
        return self._released if self._second is None else self._second.module

    @abstractmethod
    def follow(self, record: StepRecord, batch_idx: int) -> dict[str, Any]:
        """Take the second network's step.

        Args:
            record: what the user's network's step had.
            batch_idx: index of the batch in its epoch.

        Returns:
            What ``training_step`` returned, as hooks get it: a dict, its loss detached; empty for None.
        """

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Cut the run into stages and begin to weight."""
        self._released = self._record = None
        self.chosen = False
        super().on_train_start(trainer, pl_module)

    # -- the lockstep --------------------------------------------------------------------------------------

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The second network lives through the module's own hooks too."""
        super().on_train_epoch_start(trainer, pl_module)
        if self._second is not None:
            self._second.hook("on_train_epoch_start")

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """The second network lives through the module's own hooks too."""
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        self._record = None
        if self._second is not None:
            self._second.hook("on_train_batch_start", batch, batch_idx)

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """The learning rate and the like with which the user's network steps."""
        super().on_before_optimizer_step(trainer, pl_module, optimizer)
        if self._record is not None:
            self._record.note_options(optimizer)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """The second network takes its step; then the stage may end."""
        if self._second is not None and self._record is not None:
            output = self.follow(self._record, batch_idx)
            self._second.hook("on_train_batch_end", output, batch, batch_idx)
            self._record = None
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The second network lives through the module's own hooks too."""
        super().on_train_epoch_end(trainer, pl_module)
        if self._second is not None:
            self._second.hook("on_train_epoch_end")

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """What the Trainer's validation does to the user's network between processes."""
        super().on_validation_start(trainer, pl_module)
        if self._second is not None and not trainer.sanity_checking:
            self._second.before_validation()

    # -- afterwards ----------------------------------------------------------------------------------------

    def release(self) -> None:
        """Take the second network off the Trainer; a plain module remains."""
        super().release()
        if self._second is not None:
            self._released = self._second.release()
        self._second = self._record = None

    def fit_state(self) -> dict[str, Any]:
        """Everything that the rest of the run depends on: tensors and plain Python."""
        return super().fit_state() | {"chosen": self.chosen}

    def choose(self, module: L.LightningModule, first: float, second: float) -> None:
        """Leave the network that validates better in the user's module; the user's own where they are equal."""
        assert self._second is not None
        if second > first:
            self._second.give_to(module)
        self.chosen = True

    def load_results(self, trainer: L.Trainer, module: L.LightningModule, state: dict[str, Any]) -> None:
        """Take over what a fit came to that has ended, the second network too."""
        super().load_results(trainer, module, state)
        if (second := state.get(self.second_key)) is not None:
            twin = duplicate(trainer, module)
            copy_tensors(second["tensors"], tensors(twin))
            self._released = release(twin)
            if self.keep == "best" and not state.get("chosen", state.get("ended")):
                self.choose_late(trainer, module, state)

    def choose_late(self, trainer: L.Trainer, module: L.LightningModule, state: dict[str, Any]) -> None:
        """The fit has ended, but its last checkpoint was written before it chose between its networks."""
        rank_zero_warn(
            "The checkpoint was written before the fit had chosen between its two networks, so the first is in the "
            f"module, whichever validates better; the other is {type(self).__name__}.{self.second_key}."
        )
