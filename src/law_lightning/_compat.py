"""The private names of Lightning and torch that the package relies on, each with its reason.

No other module uses one (``tests/test_compat.py``). Where a version lacks a name, what needs it is refused by name.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any
from weakref import WeakSet

import lightning as L
import torch
from lightning.pytorch.trainer.states import RunningStage, TrainerFn
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import dataloader


def _private(owner: Any, name: str, feature: str) -> Any:
    """An attribute that may be gone in a later version."""
    try:
        return getattr(owner, name)
    except AttributeError:
        kind = getattr(owner, "__name__", type(owner).__name__)
        raise MisconfigurationException(
            f"{feature} needs {kind}.{name}, which torch {torch.__version__} with lightning {L.__version__} does not "
            "have: install versions that law-lightning was tested with (constraints.txt)."
        ) from None


# -- batches and loaders -------------------------------------------------------------------------------------------


def to_device(trainer: L.Trainer, module: L.LightningModule, batch: Any, loader_idx: int = 0) -> Any:
    """A batch as the Trainer would give it to a step of ``module``.

    The Trainer calls these hooks on its own module alone, and a copy may have others. Public would be a
    ``strategy.batch_to_device`` with the hooks around it.
    """
    feature = "Evaluating a copy of the module"
    batch = trainer.precision_plugin.convert_input(batch)
    batch = _private(module, "_on_before_batch_transfer", feature)(batch, dataloader_idx=loader_idx)
    transfer = _private(module, "_apply_batch_transfer_handler", feature)
    return transfer(batch, device=trainer.strategy.root_device, dataloader_idx=loader_idx)


def has_validation_data(trainer: L.Trainer) -> bool:
    """Whether there is anything to validate on, before the Trainer has made its loaders.

    ``trainer.val_dataloaders`` is None until then.
    """
    loop = trainer.fit_loop.epoch_loop.val_loop
    source = _private(loop, "_data_source", "Validating at the end of a stage")
    return bool(source.is_defined()) and trainer.limit_val_batches != 0


def make_validation_loaders(trainer: L.Trainer) -> tuple[Any, Callable[[Any], Any]]:
    """What ``val_dataloader`` returns, and what makes the Trainer's own loader of each of its loaders.

    The Trainer makes them only for a module that has a ``validation_step``.
    """
    from lightning.pytorch.trainer.connectors import data_connector

    feature = "Validating a module without a validation_step"
    request = _private(data_connector, "_request_dataloader", feature)
    process = _private(data_connector, "_process_dataloader", feature)
    source = _private(trainer.fit_loop.epoch_loop.val_loop, "_data_source", feature)
    return request(source), lambda loader: process(trainer, TrainerFn.FITTING, RunningStage.VALIDATING, loader)


def set_sampler_epoch(loader: Any, epoch: int) -> None:
    """Tell a loader's samplers their epoch, as the Trainer does; the same samplers, so by the same function."""
    from lightning.fabric.utilities import data

    _private(data, "_set_sampler_epoch", "Reading a loader in the order of an epoch")(loader, epoch)


def restore_data(trainer: L.Trainer, within_epoch: bool) -> bool:
    """Have a resumed Trainer draw its batches as the uninterrupted one; whether all its loaders keep their position.

    It makes the iterator of its first epoch before any hook can put random states back, so between epochs that is made
    with the first batch. And it forgets the loaders' own states where a module has asked for
    ``estimated_stepping_batches``.
    """
    loop = trainer.fit_loop
    fetcher = _private(loop, "_data_fetcher", "Resuming a fit")
    if fetcher is None:  # no step is left to take
        return True
    # Lightning itself would not load them where a checkpoint was written at an epoch's end.
    states = _private(loop, "_combined_loader_states_to_load", "Resuming a fit")
    _private(fetcher.combined_loader, "_load_state_dicts", "Resuming a fit")(states)

    def batches() -> Iterator[Any]:
        yield from fetcher.combined_loader

    if states:
        iter(fetcher)
    if not within_epoch and fetcher.length is not None:
        fetcher.reset()
        fetcher.iterator = batches()
    return all(hasattr(loader, "load_state_dict") for loader in fetcher.combined_loader.flattened)


class _Drawn:
    """The last batches of indices that an iterator has drawn, and the number of the next, counted from 0."""

    def __init__(self, source: Any, next_number: int, room: int) -> None:
        self.source, self.next_number = source, next_number
        self.last: deque[Any] = deque(maxlen=room)


_DRAWN = "_law_lightning_drawn"
_noting: WeakSet[Any] = WeakSet()


def note_drawn(who: Any) -> None:
    """Let loaders' iterators note what they draw from their batch samplers, until all have called ``ignore_drawn``.

    Workers load ahead as soon as an iterator is made, so neither it nor its loader can be told beforehand. Where a
    version lacks the names, nothing is noted.
    """
    iterators: Any = getattr(dataloader, "_BaseDataLoaderIter", None)
    draw: Any = getattr(iterators, "_next_index", None)
    if draw is not None and not hasattr(draw, "__wrapped__"):

        @wraps(draw)
        def draw_and_note(iterator: Any) -> Any:
            index, source = draw(iterator), iterator._sampler_iter
            drawn = vars(iterator).get(_DRAWN)
            if drawn is None or drawn.source is not source:  # a new pass of workers that persist
                ahead = iterator._num_workers * getattr(iterator, "_prefetch_factor", 0)
                drawn = vars(iterator)[_DRAWN] = _Drawn(source, iterator._num_yielded, ahead + 4)
            drawn.last.append(index)
            drawn.next_number += 1
            return index

        iterators._next_index = draw_and_note
    _noting.add(who)


def ignore_drawn(who: Any) -> None:
    """Undo ``note_drawn``, which wrapped a method of all iterators; may be called more than once."""
    _noting.discard(who)
    iterators: Any = getattr(dataloader, "_BaseDataLoaderIter", None)
    original = getattr(getattr(iterators, "_next_index", None), "__wrapped__", None)
    if original is not None and not _noting:
        iterators._next_index = original


def drawn_index(trainer: L.Trainer) -> tuple[Any, Any]:
    """What the training loader's batch sampler gave for the batch at hand, and its dataset; Nones where not known.

    Batches come in the order in which their indices were drawn; the Trainer may have fetched one ahead.
    """
    fetcher: Any = getattr(trainer.fit_loop, "_data_fetcher", None)
    combined: Any = getattr(getattr(fetcher, "_combined_loader", None), "_iterator", None)
    iterators: list[Any] = getattr(combined, "iterators", [])
    if len(iterators) != 1:
        return None, None
    (iterator,) = iterators
    drawn = getattr(iterator, _DRAWN, None)
    if drawn is None or drawn.source is not iterator._sampler_iter or not getattr(iterator, "_in_order", True):
        return None, None
    number = iterator._num_yielded - 1 - len(getattr(fetcher, "batches", ()))
    place = number - drawn.next_number
    return (drawn.last[place], iterator._dataset) if -len(drawn.last) <= place < 0 else (None, None)


# -- the Trainer's course ------------------------------------------------------------------------------------------


def logged_step(trainer: L.Trainer) -> int:
    """The step under which the Trainer logs, which is not always ``global_step``: rows of ours are to meet its own."""
    step: int = _private(trainer.fit_loop.epoch_loop, "_batches_that_stepped", "Logging a stage")
    return step


@contextmanager
def at_step(trainer: L.Trainer, step: int) -> Iterator[None]:
    """Have ``trainer.global_step``, which can only be read, be that of the step that a copy repeats."""
    feature = "Training a second network"
    progress = _private(trainer.fit_loop.epoch_loop.automatic_optimization, "optim_progress", feature)
    total = progress.optimizer.step.total
    now, total.completed = total.completed, step
    try:
        yield
    finally:
        total.completed = now


def log_at_less_cost(trainer: L.Trainer) -> None:
    """Let what modules log in a fit that has not begun cost less: a tenth of the time of a search's small networks.

    Lightning moves a logged number to its device at every ``log``, whether it is there or not.
    """
    from lightning.pytorch.trainer.connectors.logger_connector import result

    metric_class: Any = _private(result, "_ResultMetric", "Logging in a search")
    collection_class: Any = _private(result, "_ResultCollection", "Logging in a search")

    class Metric(metric_class):  # type: ignore[misc]
        def to(self, *args: Any, **kwargs: Any) -> Any:
            there = self.is_tensor and args == (self.value.device,) and not kwargs
            return self if there else super().to(*args, **kwargs)

    class Results(collection_class):  # type: ignore[misc]
        def __setitem__(self, key: str, metric: Any) -> None:
            super().__setitem__(key, Metric(metric.meta, metric.is_tensor))

    trainer.fit_loop.epoch_loop._results = Results(training=True)


# -- a second network under DDP --------------------------------------------------------------------------------------


def wrapped_by(strategy: Any, module: nn.Module) -> nn.Module:
    """A module in the strategy's wrapper, with the options that it gave the target's."""
    wrapped: nn.Module = _private(strategy, "_setup_model", "A second network on several processes")(module)
    return wrapped


def through_wrapper(strategy: Any, wrapped: nn.Module, module: nn.Module, name: str, *args: Any, **kwargs: Any) -> Any:
    """Call a module's method by way of its DDP wrapper, whose ``forward`` prepares the sharing of gradients."""
    redirect = _private(strategy, "_forward_redirection", "A second network on several processes")
    return redirect(wrapped, module, name, *args, **kwargs)


def share_buffers(wrapped: DistributedDataParallel) -> None:
    """Give all processes the first one's buffers, as the wrapper does before its ``forward``."""
    _private(wrapped, "_sync_buffers", "A second network on several processes")()


def comm_hook(strategy: Any) -> Any:
    """The strategy's own way to share gradients, None for DDP's."""
    return getattr(strategy, "_ddp_comm_hook", None)


def scales_gradients(optimizer: torch.optim.Optimizer) -> bool:
    """Whether an optimizer takes scaled gradients (a fused one); the GradScaler asks for this mark too."""
    return bool(getattr(optimizer, "_step_supports_amp_scaling", False))


# -- modules -------------------------------------------------------------------------------------------------------

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def hooks_of(module: nn.Module) -> list[dict[int, Callable[..., Any]]]:
    """A module's hooks: those that are bound to it must be bound to its copy."""
    return [_private(module, name, "Copying a module") for name in _HOOKS]


#: Where parameters and optimizers keep their hooks, and what registers one.
_REGISTERED_BY = {
    "_backward_hooks": "register_hook",
    "_post_accumulate_grad_hooks": "register_post_accumulate_grad_hook",
    "_optimizer_step_pre_hooks": "register_step_pre_hook",
    "_optimizer_step_post_hooks": "register_step_post_hook",
}


def copy_hooks(own: Any, copied: Any, of_copy: Callable[[Any], Any]) -> None:
    """Register ``of_copy(hook)`` for each hook of a parameter or an optimizer on its copy; deepcopy leaves them out."""
    for name, register in _REGISTERED_BY.items():
        for hook in (getattr(own, name, None) or {}).values():
            getattr(copied, register)(of_copy(hook))


def is_compiled(module: L.LightningModule) -> bool:
    """Whether it came from ``torch.compile(module)`` in Lightning's way."""
    return getattr(module, "_compiler_ctx", None) is not None


def mark_uncompiled(module: L.LightningModule) -> None:
    """Let a copy be one that was not compiled."""
    module._compiler_ctx = None


def reset_of(part: nn.Module) -> Callable[[], Any] | None:
    """What draws a submodule's parameters anew; ``torch.nn.MultiheadAttention`` has no public name for it."""
    reset: Callable[[], Any] | None = getattr(part, "reset_parameters", getattr(part, "_reset_parameters", None))
    return reset


# -- torch ---------------------------------------------------------------------------------------------------------


class UncheckedAdam(torch.optim.Adam):
    """Adam without the question, before every step, whether an accelerator captures a graph.

    Torch opens the driver's library for it each time, which takes longer than a step of networks as small as a
    strategy's. Where a version lacks the name, nothing changes.
    """

    def _accelerator_graph_capture_health_check(self) -> None:
        pass


def switch_tangents(func: Any, args: tuple[Any, ...]) -> None:
    """Have dual numbers pass on tangents only where gradients are enabled; ``torch.no_grad`` by itself leaves them.

    Args:
        func: what a ``TorchFunctionMode`` sees called.
        args: its arguments.
    """
    if func is torch._C._set_grad_enabled:  # what torch.no_grad and its like call
        torch._C._set_fwd_grad_enabled(*args)


def is_transformed(tensor: torch.Tensor) -> bool:
    """Whether it stands for others within ``torch.vmap``, ``torch.func.grad`` and the like: its values are not there.

    Where a version lacks the name, torch's own error says so.
    """
    wrapped: Callable[[torch.Tensor], bool] | None = getattr(torch._C._functorch, "is_functorch_wrapped_tensor", None)
    return wrapped is not None and wrapped(tensor)


def function_modes() -> int:
    """How many function modes (ours, ``torch.device`` and the like) are active; torch.compile can trace this."""
    return torch._C._len_torch_function_stack()
