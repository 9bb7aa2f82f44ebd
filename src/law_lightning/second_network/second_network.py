"""A second network that trains in lockstep with the user's: the same batches, hooks and optimizer options.

The copy goes through its own ``training_step``, its own optimizer and the Trainer's precision and strategy, so that its
step is the one that the Trainer would take.
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

from law_lightning._compat import at_step, scales_gradients, share_buffers, through_wrapper, wrapped_by
from law_lightning.capture.loss_capture import LossCapture
from law_lightning.capture.part import Part
from law_lightning.second_network.copied_optimizer import (
    WrappedOptimizer,
    add_new_groups,
    copy_optimizer,
    options_of,
    set_options,
)
from law_lightning.second_network.duplicate import duplicate, give_hooks, release
from law_lightning.utilities.randomness import random_states, replaying


@dataclass
class StepRecord:
    """The inputs of a step of the user's network.

    Attributes:
        args: arguments of ``training_step``.
        kwargs: likewise.
        random: the global random states at its beginning.
        global_step: the Trainer's optimizer steps at its beginning.
        schedulers: the states of the Trainer's schedulers at its beginning.
        options: the optimizer's options (learning rates and the like) if it stepped, else None.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    random: dict[str, Any] = field(default_factory=random_states)
    global_step: int = 0
    schedulers: list[dict[str, Any]] = field(default_factory=list)
    options: list[dict[str, Any]] | None = None

    def copy(self) -> StepRecord:
        """A record with tensors of its own, as a step may change its batch in place."""
        args, kwargs = apply_to_collection((self.args, self.kwargs), Tensor, Tensor.clone)
        return replace(self, args=args, kwargs=kwargs)


class SecondNetwork(Part):
    """A copy of the user's module with its optimizer and precision scaler; a subclass says how it learns.

    Attributes:
        module: the copy; None before :meth:`fork`. After the fit a plain module, on the CPU.
        active: whether it trains.
    """

    def __init__(self) -> None:
        self.module: L.LightningModule | None = None
        self.active = False
        self._record: StepRecord | None = None
        self._schedulers: list[dict[str, Any]] = []

    def start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """A fit begins; there is no copy yet."""
        self._trainer, self._target = trainer, module
        self.module, self.active, self._record, self._schedulers = None, False, None, []

    def copied(self, memo: dict[int, Any]) -> tuple[L.LightningModule, Optimizer]:
        """Copies of the user's module and of its optimizer, which trains the copied module; ``memo`` is deepcopy's.

        Raises:
            MisconfigurationException: there can be none.
        """
        optimizer = self._trainer.optimizers[0]
        twin = duplicate(self._trainer, self._target, memo)
        twin_optimizer = copy_optimizer(optimizer, self._target, memo)
        parameters = zip(self._target.parameters(), twin.parameters(), strict=True)
        give_hooks([*parameters, (optimizer, twin_optimizer)], memo)  # they may refer to the optimizer
        return twin, twin_optimizer

    def fork(self) -> None:
        """Copy the user's module as it is now, with the state of its optimizer."""
        trainer, memo = self._trainer, {}  # type: tuple[L.Trainer, dict[int, Any]]
        twin, self.optimizer = self.copied(memo)
        self.module = self._twin = twin
        self._wrapped_optimizer = WrappedOptimizer(self.optimizer, self._step)
        # As functions: a deep copy of the twin would copy the object of a bound method too.
        vars(twin).update(
            optimizers=lambda use_pl_optimizer=True: self._wrapped_optimizer if use_pl_optimizer else self.optimizer,
            lr_schedulers=lambda: self._lr_schedulers(),
        )
        scaler: torch.amp.GradScaler | None = copy.deepcopy(getattr(trainer.precision_plugin, "scaler", None))
        self._scaler = scaler or torch.amp.GradScaler("cpu", enabled=False)
        self._prepare(twin)
        self._wrapped: torch.nn.Module = twin
        if isinstance(trainer.strategy.model, DistributedDataParallel):
            # Wrapping gives all processes the first one's buffers; the target was wrapped earlier, and has its own.
            own = [buffer.clone() for buffer in twin.buffers()]
            self._wrapped = wrapped_by(trainer.strategy, twin)
            copy_tensors(iter(own), twin.buffers())
        self.active = True

    def _lr_schedulers(self) -> Any:
        """The copy's ``lr_schedulers``, not the Trainer's; in its step as they were when the target's step began."""
        memo = {id(self._trainer.optimizers[0]): self.optimizer, id(self._target): self._twin}
        found = [copy.deepcopy(each.scheduler, memo) for each in self._trainer.lr_scheduler_configs]
        for each, state in zip(found, self._schedulers, strict=False):
            each.load_state_dict(copy.deepcopy(state))
        return found if len(found) > 1 else next(iter(found), None)

    def _prepare(self, twin: L.LightningModule) -> None:
        """Change the copy in a subclass, before it is wrapped for several processes."""

    def before_module_hook(self, hook: str, *args: Any) -> None:
        """Run one of the module's own hooks on the copy, if the module has it.

        Called just before the Trainer calls that of the user's module, so that both draw the same random numbers.
        """
        if not self.active:
            return
        if hook == "on_train_batch_start":
            self._record = None
        if hook == "on_validation_start":
            # The Trainer's validation runs through the DDP wrapper, which shares the target's buffers.
            if isinstance(self._wrapped, DistributedDataParallel) and self._wrapped.will_sync_module_buffers():
                share_buffers(self._wrapped)
        elif is_overridden(hook, self._twin, L.LightningModule):
            with replaying():
                getattr(self._twin, hook)(*args)

    def before_step(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Record what the step begins with; LBFGS calls it several times."""
        if self.active and self._record is None:
            trainer = self._trainer
            schedulers = [each.scheduler.state_dict() for each in trainer.lr_scheduler_configs]
            record = StepRecord(args, kwargs, global_step=trainer.global_step, schedulers=schedulers)
            self._record = record.copy()

    def before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Record the options (learning rates and the like) with which the user's network steps."""
        if self._record is not None:
            self._record.options = options_of(optimizer)

    def after_batch(self, batch: Any, batch_idx: int) -> None:
        """Take the step that the user's network took."""
        record, self._record = self._record, None
        if record is not None:
            self._schedulers = record.schedulers
            output = self.learn(record, batch_idx)
            self._schedulers = []
            self.before_module_hook("on_train_batch_end", output, batch, batch_idx)

    def learn(self, record: StepRecord, batch_idx: int) -> dict[str, Any]:
        """Train on the batch of a step of the user's network.

        Returns:
            What ``training_step`` returned, as hooks get it: a dict, its loss detached; empty for None.
        """
        raise NotImplementedError

    def _run(self, closure: Callable[[], Tensor | None], record: StepRecord, batch_idx: int) -> None:
        """Run the copy's ``optimizer_step`` if the Trainer ran that of the user's module; else accumulate gradients."""
        trainer, self._options = self._trainer, record.options
        if trainer.global_step == record.global_step:
            with self._sharing(False):
                closure()
            return
        self._follow_options()  # an optimizer_step may read them
        with at_step(trainer, record.global_step):
            self._twin.optimizer_step(trainer.current_epoch, batch_idx, self._wrapped_optimizer, closure)

    def _follow_options(self) -> None:
        if self._options is not None:
            set_options(self.optimizer, self._options)

    def _step(self, closure: Callable[[], Tensor | None] | None = None, **kwargs: Any) -> Any:
        """What the Trainer does when the module's ``optimizer_step`` lets the optimizer step."""
        trainer, module, optimizer, scaler = self._trainer, self._twin, self.optimizer, self._scaler

        def whole() -> Tensor | None:
            loss = None if closure is None else closure()
            if loss is not None and not scales_gradients(optimizer):
                scaler.unscale_(optimizer)
            module.on_before_optimizer_step(optimizer)
            module.configure_gradient_clipping(
                optimizer,
                gradient_clip_val=trainer.gradient_clip_val,
                gradient_clip_algorithm=trainer.gradient_clip_algorithm,
            )
            return loss

        self._follow_options()
        if not scaler.is_enabled():
            return optimizer.step(whole, **kwargs)  # type: ignore[arg-type]
        if whole() is None:
            return None
        output = scaler.step(optimizer, **kwargs)
        scaler.update()
        return output

    def _sharing(self, shared: bool) -> AbstractContextManager[None]:
        """A context in which processes share gradients or, while these accumulate, do not."""
        wrapped = self._wrapped
        return wrapped.no_sync() if isinstance(wrapped, DistributedDataParallel) and not shared else nullcontext()

    def _follow_target(self) -> None:
        """Take over what callbacks such as BackboneFinetuning changed: modes, frozen parts, parameter groups."""
        for own, copied in zip(self._target.modules(), self._twin.modules(), strict=False):
            if copied.training != own.training:  # one by one: a frozen BatchNorm stays in evaluation mode
                copied.training = own.training
        for theirs, mine in zip(self._target.parameters(), self._twin.parameters(), strict=True):
            if mine.requires_grad != theirs.requires_grad:
                mine.requires_grad_(theirs.requires_grad)
        add_new_groups(self.optimizer, self._trainer.optimizers[0], self._target, self._twin)

    def _forward(self, record: StepRecord, capture: LossCapture) -> Any:
        """What ``training_step`` returns, its losses seen by ``capture``."""
        trainer, module = self._trainer, self._twin
        with trainer.precision_plugin.train_step_context(), capture:
            if self._wrapped is module:
                output = module.training_step(*record.args, **record.kwargs)
            else:
                call = (trainer.strategy, self._wrapped, module, "training_step")
                output = through_wrapper(*call, *record.args, **record.kwargs)
        return capture.take_output(output)

    def _backward(self, output: Any, batch_idx: int) -> dict[str, Any]:
        """Add the gradient of what ``training_step`` returned; returns that as hooks get it."""
        trainer, module = self._trainer, self._twin
        whole: dict[str, Any] = dict(output) if isinstance(output, Mapping) else {"loss": output}
        loss: Tensor | None = whole.get("loss")
        if batch_idx % trainer.accumulate_grad_batches == 0:
            module.on_before_zero_grad(self.optimizer)
            module.optimizer_zero_grad(trainer.current_epoch, batch_idx, self.optimizer)
        if loss is None:
            return {}
        loss = loss / trainer.accumulate_grad_batches if trainer.accumulate_grad_batches > 1 else loss
        scaled = self._scaler.scale(loss)
        module.on_before_backward(scaled)
        module.backward(scaled)
        module.on_after_backward()
        return whole | {"loss": loss.detach()}

    def state_dict(self) -> dict[str, Any]:
        """Every parameter and buffer (a module's own ``state_dict`` may leave some out), optimizer and scaler."""
        if not self.active:
            return {"network": None}
        network = {
            "tensors": [tensor.detach().clone() for tensor in tensors(self._twin)],
            "optimizer": self.optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
        }
        return {"network": network}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state returned by :meth:`state_dict`.

        Raises:
            ValueError: the state is of another network or optimizer.
        """
        network = state["network"]
        if network is None:
            return
        if not self.active:
            self.fork()
            self.before_module_hook("on_train_start")  # the Trainer will call it on the user's module alone
        copy_tensors(network["tensors"], tensors(self._twin))
        known = self.optimizer.state_dict()["state"]  # like the target's; torch would not compare the shapes
        for index, values in network["optimizer"]["state"].items():
            for name, value in known.get(index, {}).items():
                if isinstance(value, Tensor) and values[name].shape != value.shape:
                    raise ValueError(f"{name} of parameter {index} has shape {list(values[name].shape)}")
        self.optimizer.load_state_dict(copy.deepcopy(network["optimizer"]))
        self._scaler.load_state_dict(network["scaler"])

    def give_to(self, module: L.LightningModule) -> None:
        """Copy parameters and buffers into ``module``."""
        copy_tensors(tensors(self._twin), tensors(module))

    def restore_target(self) -> None:
        """Let the user's module go on from the copy: its tensors, and the state of its optimizer and scaler."""
        self.give_to(self._target)
        optimizer = self._trainer.optimizers[0]
        options = options_of(optimizer)
        optimizer.load_state_dict(copy.deepcopy(self.optimizer.state_dict()))
        set_options(optimizer, options)  # a scheduler may have moved on since the copy's last step
        if (scaler := getattr(self._trainer.precision_plugin, "scaler", None)) is not None:
            scaler.load_state_dict(self._scaler.state_dict())

    def close(self) -> None:
        """Take the copy off the accelerator and the Trainer; a plain module remains."""
        if self.active:
            for name in ("optimizers", "lr_schedulers"):
                vars(self._twin).pop(name, None)
            self.optimizer.zero_grad(set_to_none=True)
            release(self._twin)
        for name in ("_twin", "optimizer", "_wrapped_optimizer", "_scaler", "_wrapped", "_trainer", "_target"):
            vars(self).pop(name, None)
        self.active, self._record = False, None


def tensors(module: torch.nn.Module) -> Iterator[Tensor]:
    """Parameters, then buffers."""
    return itertools.chain(module.parameters(), module.buffers())


@torch.no_grad()
def copy_tensors(source: Iterator[Tensor], destination: Iterator[Tensor]) -> None:
    """Copy values one by one; raises a ValueError where both sides are not of the same module."""
    for new, old in zip(source, destination, strict=True):
        if new.shape != old.shape:  # torch would broadcast a single number
            raise ValueError(f"a tensor of the network has shape {list(old.shape)}, but {list(new.shape)} was given")
        old.copy_(new)
