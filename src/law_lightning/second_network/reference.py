"""DNR, the duplicate network: a copy of the target that trains on the same batches with plain losses.

The copy goes through its own ``training_step``, its own optimizer and the Trainer's precision and strategy, from
the random states the target's step began with, so that it is what the Trainer without the callback would give.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from law_lightning._compat import scales_gradients, share_buffers, through_wrapper, wrapped_by
from law_lightning.capture.loss_capture import LossCapture
from law_lightning.second_network.duplicate import duplicate, release
from law_lightning.utilities.randomness import random_states, replaying


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

    def copy(self) -> StepRecord:
        """One to be used up."""
        args, kwargs = apply_to_collection((self.args, self.kwargs), Tensor, Tensor.clone)
        return replace(self, args=args, kwargs=kwargs)

    def note_options(self, optimizer: Optimizer) -> None:
        """Keep the options of the target's optimizer as they are just before it steps."""
        self.options = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]


@dataclass
class StepResult:
    """What the reference's step gave.

    Attributes:
        output: what ``training_step`` returned, as the Trainer hands it to hooks: a dict, its loss detached; empty for
            None.
        loss: mean per-sample loss, a scalar; None if the step revealed none.
    """

    output: dict[str, Any] = field(default_factory=dict)
    loss: Tensor | None = None


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
        self._target = module
        memo: dict[int, Any] = {}
        self.module = duplicate(trainer, module, memo)
        self.optimizer = _copy_optimizer(trainer.optimizers[0], memo)
        self._scaler: torch.amp.GradScaler | None = copy.deepcopy(getattr(trainer.precision_plugin, "scaler", None))
        self._prepare()
        self._wrapped: torch.nn.Module = self.module
        if isinstance(trainer.strategy.model, DistributedDataParallel):
            # Wrapping gives all processes the first one's buffers; the target's, wrapped long ago, are each its own.
            own = [buffer.clone() for buffer in self.module.buffers()]
            self._wrapped = wrapped_by(trainer.strategy, self.module)
            copy_tensors(iter(own), self.module.buffers())

    def _prepare(self) -> None:
        """What a subclass changes on the copy, before processes agree on it."""

    # -- training ------------------------------------------------------------------------------------------

    def begin_step(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> StepRecord:
        """Note what the target's step begins with."""
        return StepRecord.of(args, kwargs)

    def step(self, record: StepRecord, batch_idx: int) -> StepResult:
        """Train on one batch exactly as the plain Trainer would.

        Args:
            record: what the target's step had.
            batch_idx: index of the batch in its epoch.
        """
        results: list[StepResult] = []

        def closure() -> Tensor | None:
            with torch.enable_grad():
                result = self._forward_backward(record, batch_idx)
            results.append(result)
            return result.output.get("loss")

        self._follow_target()
        with replaying(record.random):
            self._run(closure, record.options)
        return results[0]

    def _run(self, closure: Callable[[], Tensor | None], options: list[dict[str, Any]] | None) -> None:
        """Step as the target did, with its options; or accumulate only, if it did not step (None)."""
        if options is None:
            with self._sharing(False):
                closure()
        else:
            for group, given in zip(self.optimizer.param_groups, options, strict=True):
                group.update(given)
            self._optimizer_step(closure)

    def _sharing(self, shared: bool) -> AbstractContextManager[None]:
        """Whether gradients are shared between processes; while they accumulate they are not."""
        if shared or not isinstance(self._wrapped, DistributedDataParallel):
            return nullcontext()
        unshared: AbstractContextManager[None] = self._wrapped.no_sync()
        return unshared

    def _follow_target(self) -> None:
        """Take over what callbacks such as BackboneFinetuning changed on the target: modes, frozen parts, groups."""
        for own, copied in zip(self._target.modules(), self.module.modules(), strict=False):
            if copied.training != own.training:  # each by itself: a frozen BatchNorm stays in evaluation mode
                copied.training = own.training
        for theirs, mine in zip(self._target.parameters(), self.module.parameters(), strict=True):
            if mine.requires_grad != theirs.requires_grad:
                mine.requires_grad_(theirs.requires_grad)
        groups = self._trainer.optimizers[0].param_groups
        if len(groups) > len(self.optimizer.param_groups):
            twins = dict(zip(self._target.parameters(), self.module.parameters(), strict=True))
            for group in groups[len(self.optimizer.param_groups) :]:
                self.optimizer.add_param_group({**group, "params": [twins[each] for each in group["params"]]})

    def _forward_backward(self, record: StepRecord, batch_idx: int) -> StepResult:
        capture = LossCapture()
        output = self._backward(self._forward(record, capture), batch_idx)
        if not output:
            return StepResult()
        return StepResult(output, capture.samples[0].mean_loss if capture.samples else None)

    def _forward(self, record: StepRecord, capture: LossCapture) -> Any:
        """What ``training_step`` returns, its losses seen by ``capture``."""
        trainer, module = self._trainer, self.module
        with trainer.precision_plugin.train_step_context(), capture:
            if self._wrapped is module:
                output = module.training_step(*record.args, **record.kwargs)
            else:
                output = through_wrapper(
                    trainer.strategy, self._wrapped, module, "training_step", *record.args, **record.kwargs
                )
        return capture.take_output(output)

    def _backward(self, output: Any, batch_idx: int) -> dict[str, Any]:
        """Add the gradient of what ``training_step`` returned; returns that for hooks (see :class:`StepResult`)."""
        trainer, module = self._trainer, self.module
        whole: dict[str, Any] = dict(output) if isinstance(output, Mapping) else {"loss": output}
        loss: Tensor | None = whole.get("loss")
        if batch_idx % trainer.accumulate_grad_batches == 0:
            module.on_before_zero_grad(self.optimizer)
            module.optimizer_zero_grad(trainer.current_epoch, batch_idx, self.optimizer)
        if loss is None:
            return {}
        scaled = loss / trainer.accumulate_grad_batches if trainer.accumulate_grad_batches > 1 else loss
        if self._scaler is not None:
            scaled = self._scaler.scale(scaled)
        module.on_before_backward(scaled)
        module.backward(scaled)
        module.on_after_backward()
        return whole | {"loss": loss.detach()}

    def _optimizer_step(self, closure: Callable[[], Tensor | None]) -> None:
        if self._scaler is None:

            def whole() -> Tensor | None:
                loss = closure()
                self._after_backward()
                return loss

            self.optimizer.step(whole)  # type: ignore[arg-type]
            return
        skipped = closure() is None
        if not skipped and not scales_gradients(self.optimizer):
            self._scaler.unscale_(self.optimizer)
        self._after_backward()
        if not skipped:
            self._scaler.step(self.optimizer)
            self._scaler.update()

    def _after_backward(self) -> None:
        self.module.on_before_optimizer_step(self.optimizer)
        self.module.configure_gradient_clipping(
            self.optimizer,
            gradient_clip_val=self._trainer.gradient_clip_val,
            gradient_clip_algorithm=self._trainer.gradient_clip_algorithm,
        )

    def before_validation(self) -> None:
        """Share the buffers where the Trainer's validation shares the target's: it runs through the DDP wrapper."""
        if isinstance(self._wrapped, DistributedDataParallel) and self._wrapped.will_sync_module_buffers():
            share_buffers(self._wrapped)

    def hook(self, name: str, *args: Any) -> None:
        """Run one of the module's own hooks on the copy too, if the module has it.

        Called just before the Trainer calls the target's, so that both draw the same random numbers.
        """
        if is_overridden(name, self.module, L.LightningModule):
            with replaying():
                getattr(self.module, name)(*args)

    # -- state ---------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Every parameter and buffer (a module's own ``state_dict`` may leave some out), optimizer and scaler."""
        return {
            "tensors": [tensor.detach().clone() for tensor in tensors(self.module)],
            "optimizer": self.optimizer.state_dict(),
            "scaler": None if self._scaler is None else self._scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken.

        Raises:
            ValueError: the state is of another network or optimizer.
        """
        copy_tensors(state["tensors"], tensors(self.module))
        known = self.optimizer.state_dict()["state"]  # the target's, which torch would not compare with it
        for index, values in state["optimizer"]["state"].items():
            for name, value in known.get(index, {}).items():
                if isinstance(value, Tensor) and values[name].shape != value.shape:
                    raise ValueError(f"{name} of parameter {index} has shape {list(values[name].shape)}")
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        if self._scaler is not None:
            self._scaler.load_state_dict(state["scaler"])

    def give_to(self, module: L.LightningModule) -> None:
        """Copy the reference's parameters and buffers into ``module``."""
        copy_tensors(tensors(self.module), tensors(module))

    def release(self) -> L.LightningModule:
        """Take the copy off the accelerator and the Trainer; a plain module remains."""
        self.optimizer.zero_grad(set_to_none=True)
        return release(self.module)


def tensors(module: torch.nn.Module) -> Iterator[Tensor]:
    """Parameters, then buffers."""
    return itertools.chain(module.parameters(), module.buffers())


@torch.no_grad()
def copy_tensors(source: Iterator[Tensor], destination: Iterator[Tensor]) -> None:
    """Copy values one by one; both sides are of the same module.

    Raises:
        ValueError: they are not.
    """
    for new, old in zip(source, destination, strict=True):
        if new.shape != old.shape:  # torch would repeat one number
            raise ValueError(f"a tensor of the network has shape {list(old.shape)}, but {list(new.shape)} was given")
        old.copy_(new)


def _copy_optimizer(optimizer: Optimizer, memo: dict[int, Any]) -> Optimizer:
    """A copy whose parameters are those of the copied module that ``memo`` knows."""
    twin: Optimizer = copy.deepcopy(optimizer, memo)
    for name, value in vars(optimizer).items():  # torch's own deep copy keeps defaults, state and groups alone
        if name not in vars(twin) and name != "step":  # schedulers wrap step on the instance
            vars(twin)[name] = copy.deepcopy(value, memo)
    return twin
