"""What a fit needs beside its own state to go on exactly: the data order, the schedulers, a moment to be saved at."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from law_lightning._compat import combined_loader
from law_lightning.callbacks.checks import averaging, tuners
from law_lightning.callbacks.order import DataOrder, of_every_process
from law_lightning.callbacks.plateau import step_at_epoch_end
from law_lightning.callbacks.requeue import RequeueSignal
from law_lightning.callbacks.resume import STATE_FORMAT, numbers, refuse_later
from law_lightning.utilities.randomness import check_portable_states


class ResumableCallback(L.Callback):
    """A callback whose fit, resumed from a checkpoint, ends as the uninterrupted one.

    A subclass says what its state is, and calls :meth:`go_on` when a fit begins for which there is one.
    """

    def __init__(self) -> None:
        self._fitting = self._began = self._plateau_is_due = False
        self._order: DataOrder | None = None
        self._requeue: RequeueSignal | None = None
        self._step_begun: int | None = None  # the optimizer's steps before the last training_step
        self._loaded: dict[str, Any] | None = None
        self._results: dict[str, Any] | None = None

    # -- what a subclass adds ------------------------------------------------------------------------------

    def _resume(self, trainer: L.Trainer, module: L.LightningModule, state: dict[str, Any]) -> None:
        """Take over a checkpoint's state; what is wrong with it may raise anything."""

    def load_results(self, trainer: L.Trainer, module: L.LightningModule, state: dict[str, Any]) -> None:
        """Take over what a fit came to that has ended."""

    def process_state(self) -> dict[str, Any]:
        """What each process has for itself: tensors and plain Python."""
        assert self._order is not None
        return {"order": self._order.state_dict()}

    def is_over(self, trainer: L.Trainer) -> bool:
        """Whether no further step is to be taken."""
        return trainer.should_stop

    def restore(self, module: L.LightningModule) -> None:
        """Leave everything as it was, whether the fit ended or failed."""
        if self._requeue is not None:
            self._requeue.detach()
            self._requeue = None

    def release(self) -> None:
        """Let go of what only the fit needed. A fit that failed keeps it: a checkpoint may be written yet."""

    # -- before training -----------------------------------------------------------------------------------

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Forget the last fit."""
        # A checkpoint is restored after this, also for a test or a validation, which must not leak into a later fit.
        self._fitting, self._loaded = stage == "fit", None
        if self._fitting:
            self._began, self._results = False, None
            if self._requeue is not None:  # of a fit that could not end
                self._requeue.detach()
            self.release()  # what a fit that failed has kept
            self._order = DataOrder()

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The data order of the first epoch is still to be drawn."""
        if combined_loader(trainer) is None and self._order is not None:
            self._order.note_epoch(trainer)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """From here on the fit is one to be resumed."""
        self._began = True
        self._plateau_is_due, self._step_begun = False, None
        self._requeue = RequeueSignal(trainer)

    def go_on(self, trainer: L.Trainer, module: L.LightningModule, state: dict[str, Any]) -> None:
        """Resume; what is wrong with the checkpoint is named before any step is taken.

        Raises:
            MisconfigurationException: the state is damaged, or of another run.
        """
        with self._naming_damage():
            self._resume(trainer, module, state)
            trainer.callback_metrics.update(state.get("metrics", {}))
            order = state["processes"][trainer.global_rank]["order"]
            check_portable_states(order["now"])
            check_portable_states(order["epoch_start"])
            for name in ("before_batch", "validation_start"):
                if order.get(name) is not None:
                    check_portable_states(order[name])
        assert self._order is not None
        self._order.restore(trainer, order)  # the user's own data are drawn here: their errors are another matter

    @contextmanager
    def _naming_damage(self) -> Iterator[None]:
        try:
            yield
        except MisconfigurationException:
            raise
        except Exception as error:  # a state that another program made up can fail in any way
            raise MisconfigurationException(
                f"What the checkpoint holds of {type(self).__name__} is damaged ({type(error).__name__}: {error}): "
                "resume from another one, or begin anew."
            ) from error

    # -- steps ---------------------------------------------------------------------------------------------

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """From the second epoch on, the data order is drawn right after this."""
        if self._order is not None and trainer.current_epoch > 0:
            self._order.note_epoch(trainer)
        elif self._order is not None and tuners(trainer):
            self._order.note_tuned_epoch()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """All callbacks are done with the last step: here a checkpoint is one to go on from."""
        assert self._order is not None
        self._order.begin_batch()
        if self._requeue is None or self.in_step(trainer):
            return
        if self._order.knows_batch or (batch_idx == 0 and trainer.world_size == 1):
            self._requeue.deliver()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """The next batch is drawn after this."""
        if self._order is not None and self._requeue is not None:
            self._order.note_batch(self._requeue.agree(trainer))

    def in_step(self, trainer: L.Trainer) -> bool:
        """Whether a step has begun, or gradients are being accumulated for one."""
        return self._step_begun == trainer.global_step

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Validation may take long, and is done anew after a checkpoint that is written in the course of it."""
        if self._order is None or not (self._fitting and self._began):
            return
        self._order.begin_validation()
        alone = trainer.world_size == 1  # several processes validate at their own pace
        if self._requeue is None or not alone or self.in_step(trainer) or self.is_over(trainer):
            return
        if not averaging(trainer):  # which has put the average in the network's place
            self._requeue.release()

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Callbacks that count validations do so next, and none is to count this one twice."""
        if self._requeue is not None:
            self._requeue.hold()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The training goes on."""
        if self._order is not None:
            self._order.end_validation()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """In the epoch that a checkpoint was written in, the Trainer would leave out what follows a metric."""
        if self._plateau_is_due:
            step_at_epoch_end(trainer)
        self._plateau_is_due = False

    # -- afterwards ----------------------------------------------------------------------------------------

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Called by a subclass when its own work is done: from here on a checkpoint holds what the fit came to."""
        if self._requeue is not None and trainer.world_size == 1:
            self._requeue.release()
        elif self._requeue is not None and self._requeue.agree(trainer):
            self._requeue.deliver()

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A fit that had no step to take, for it went on from the end of another, has that one's results."""
        if self._loaded is not None and not self._began:
            with self._naming_damage():
                self.load_results(trainer, pl_module, self._loaded)
            self._results = self._loaded

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Leave the module as it was."""
        self.restore(pl_module)
        self.release()
        self._fitting, self._loaded = False, None

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Leave the module as it was; the state stays whole for a checkpoint that is written after this."""
        try:
            if self._requeue is not None and trainer.world_size == 1:  # several processes need not all have failed
                self._requeue.release()
        finally:
            self.restore(pl_module)

    # -- state ---------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """:meth:`fit_state`, also after the fit; empty before it begins."""
        if self._results is not None:  # there was no step to take
            return dict(self._results)
        return self.fit_state() if self._began else {}

    def fit_state(self) -> dict[str, Any]:
        """Everything that the rest of the run depends on: tensors and plain Python."""
        return {
            "format": STATE_FORMAT,
            "ended": not self._fitting,
            "processes": of_every_process(self.process_state()),
        }

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add what only the Trainer knows."""
        state = checkpoint.get("callbacks", {}).get(self.state_key)
        if not state:
            return
        # Schedulers and callbacks that follow metrics go on seeing those of before.
        state["metrics"] = {name: value.cpu() for name, value in numbers(trainer.callback_metrics).items()}
        state["in_step"] = self.in_step(trainer)
        if self._order is not None and trainer.validating and not self._order.validated:
            state["exchanged"] = averaging(trainer)
            for order in (own["order"] for own in state["processes"]):
                order["validation_start"] = order["validation_start"] or order["now"]  # something before us has failed

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state of a checkpoint until the fit that resumes from it begins.

        Raises:
            MisconfigurationException: it is of a later version.
        """
        if self._fitting:
            refuse_later(type(self).__name__, state_dict)
        self._loaded = (state_dict or None) if self._fitting else None
