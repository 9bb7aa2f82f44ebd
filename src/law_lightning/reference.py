"""DNR, the duplicate network: a copy of the target that trains on the same batches with plain losses.

The copy goes through its own ``training_step``, its own optimizer and the Trainer's precision and strategy, from
the random states the target's step began with, so that it is what the Trainer without the callback would give.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from law_lightning.randomness import random_states, replaying

WRAPPED = "_law_lightning_wraps"
"""Marks a function that a callback put on the user's module; holds what the instance had in its place, or None."""

_LOG_METHODS = ("log", "log_dict")


def _silent(*args: Any, **kwargs: Any) -> None:
    """Stands in for ``log`` on a copy: only the user's own module reports."""


def duplicate(trainer: L.Trainer, module: L.LightningModule, memo: dict[int, Any] | None = None) -> L.LightningModule:
    """A copy of a module that knows the Trainer but logs nothing.

    Args:
        trainer: the Trainer of ``module``.
        module: the user's module.
        memo: shared with further deep copies that refer to the module's parameters.

    Raises:
        MisconfigurationException: the module cannot be copied.
    """
    memo = {} if memo is None else memo
    for part in module.modules():  # tensors with a graph, kept on self for convenience, cannot be deep-copied
        for value in vars(part).values():
            if isinstance(value, Tensor) and value.grad_fn is not None:
                memo[id(value)] = value.detach().clone()
    try:
        twin: L.LightningModule = copy.deepcopy(module, memo)
    except Exception as error:
        raise MisconfigurationException(
            f"LAW needs a copy of {type(module).__name__} for its reference network, but copy.deepcopy failed: "
            f"{error!r}. Keep what cannot be copied (open files, locks, generators) out of the module, or leave it "
            "out in __getstate__."
        ) from error
    if hasattr(vars(module).get("training_step"), WRAPPED):  # the callback's: the copy takes what it wraps
        own = getattr(vars(twin).pop("training_step"), WRAPPED)
        if own is not None:
            vars(twin)["training_step"] = copy.deepcopy(own, memo)
    twin.trainer = trainer
    for name in _LOG_METHODS:
        vars(twin)[name] = _silent
    return twin


@dataclass
class StepRecord:
    """What the target's step had, for the reference to repeat.

    Attributes:
        args: arguments of ``training_step``, copied before the target saw them.
        kwargs: likewise.
        random: the global random states at its beginning.
        options: the optimizer's options (learning rates and the like) if it stepped, else None.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    random: dict[str, Any] = field(default_factory=random_states)
    options: list[dict[str, Any]] | None = None

    @classmethod
    def of(cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> StepRecord:
        """Copy the arguments of a step, for a step may change its batch in place."""
        return cls(*apply_to_collection((args, kwargs), Tensor, Tensor.clone))

    def note_options(self, optimizer: Optimizer) -> None:
        """Keep the options of the target's optimizer as they are just before it steps."""
        self.options = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]


class Reference:
    """The duplicate network with its optimizer and precision scaler.

    Args:
        trainer: the Trainer that fits the target.
        module: the target, to be copied together with the state of its optimizer.

    Attributes:
        module: the copy.
    """

    def __init__(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._trainer = trainer
        memo: dict[int, Any] = {}
        self.module = duplicate(trainer, module, memo)
        optimizer = trainer.optimizers[0]
        self.optimizer: Optimizer = copy.deepcopy(optimizer, memo)  # its parameters become the copy's
        self._scaler: torch.amp.GradScaler | None = copy.deepcopy(getattr(trainer.precision_plugin, "scaler", None))
        self._wrapped: torch.nn.Module = self.module
        if isinstance(trainer.strategy.model, DistributedDataParallel):
            self._wrapped = trainer.strategy._setup_model(self.module)

    # -- training ------------------------------------------------------------------------------------------

    def step(self, record: StepRecord, batch_idx: int) -> Tensor | None:
        """Train on one batch exactly as the plain Trainer would.

        Args:
            record: what the target's step had.
            batch_idx: index of the batch in its epoch.

        Returns:
            The loss, detached; None if the training step gave none.
        """
        losses: list[Tensor | None] = []

        def closure() -> Tensor | None:
            with torch.enable_grad():
                losses.append(self._forward_backward(record, batch_idx))
            return losses[-1]

        for own, copied in zip(self._trainer.lightning_module.modules(), self.module.modules(), strict=False):
            if copied.training != own.training:  # each by itself: a frozen BatchNorm stays in evaluation mode
                copied.training = own.training
        with replaying(record.random):
            if record.options is None:  # accumulating: gradients are not yet shared between processes
                distributed = isinstance(self._wrapped, DistributedDataParallel)
                with self._wrapped.no_sync() if distributed else nullcontext():  # type: ignore[operator]
                    closure()
            else:
                for group, options in zip(self.optimizer.param_groups, record.options, strict=True):
                    group.update(options)
                self._optimizer_step(closure)
        return losses[0]

    def _forward_backward(self, record: StepRecord, batch_idx: int) -> Tensor | None:
        trainer, module = self._trainer, self.module
        with trainer.precision_plugin.train_step_context():
            if self._wrapped is module:
                output = module.training_step(*record.args, **record.kwargs)
            else:
                output = trainer.strategy._forward_redirection(
                    self._wrapped, module, "training_step", *record.args, **record.kwargs
                )
        loss: Tensor | None = output.get("loss") if isinstance(output, dict) else output  # type: ignore[assignment]
        if batch_idx % trainer.accumulate_grad_batches == 0:
            module.on_before_zero_grad(self.optimizer)
            module.optimizer_zero_grad(trainer.current_epoch, batch_idx, self.optimizer)
        if loss is None:
            return None
        scaled = loss / trainer.accumulate_grad_batches if trainer.accumulate_grad_batches > 1 else loss
        if self._scaler is not None:
            scaled = self._scaler.scale(scaled)
        module.backward(scaled)
        module.on_after_backward()
        return loss.detach()

    def _optimizer_step(self, closure: Callable[[], Tensor | None]) -> None:
        if self._scaler is None:

            def whole() -> Tensor | None:
                loss = closure()
                self._after_backward()
                return loss

            self.optimizer.step(whole)  # type: ignore[arg-type]
        elif closure() is not None:
            if not getattr(self.optimizer, "_step_supports_amp_scaling", False):
                self._scaler.unscale_(self.optimizer)
            self._after_backward()
            self._scaler.step(self.optimizer)
            self._scaler.update()

    def _after_backward(self) -> None:
        self.module.on_before_optimizer_step(self.optimizer)
        self.module.configure_gradient_clipping(
            self.optimizer,
            gradient_clip_val=self._trainer.gradient_clip_val,
            gradient_clip_algorithm=self._trainer.gradient_clip_algorithm,
        )

    def hook(self, name: str, *args: Any) -> None:
        """Run one of the module's own hooks on the copy too, if the module has it.

        Called just before the Trainer calls the target's, so that both draw the same random numbers.
        """
        if is_overridden(name, self.module, L.LightningModule):
            with replaying():
                getattr(self.module, name)(*args)

    # -- state ---------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Parameters, buffers, optimizer and scaler."""
        return {
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": None if self._scaler is None else self._scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken."""
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        if self._scaler is not None:
            self._scaler.load_state_dict(state["scaler"])

    def release(self) -> L.LightningModule:
        """Take the copy off the accelerator and the Trainer; a plain module remains.

        Returns:
            The module.
        """
        self.optimizer.zero_grad(set_to_none=True)
        for name in _LOG_METHODS:
            vars(self.module).pop(name, None)
        self.module.trainer = None
        self.module.cpu()
        return self.module
