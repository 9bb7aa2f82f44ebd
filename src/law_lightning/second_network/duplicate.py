"""Copies of a module that share nothing with it: for the reference network, and for evaluation."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Mapping
from types import CellType, FunctionType, MethodType
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from law_lightning._compat import copy_hooks, hooks_of, is_compiled, mark_uncompiled
from law_lightning.capture.wrap import WRAPPED
from law_lightning.utilities.randomness import replaying

LOG_METHODS = ("log", "log_dict")
_COMPILED = ("forward", "training_step", "validation_step", "test_step", "predict_step")


def _silent(*args: Any, **kwargs: Any) -> None:
    """Replaces ``log`` on a copy: only the user's own module logs."""


def duplicate(trainer: L.Trainer, module: L.LightningModule, memo: dict[int, Any] | None = None) -> L.LightningModule:
    """A copy of a module that has its Trainer but logs nothing.

    ``memo`` is shared with further deep copies, of what refers to the module's parameters.

    Raises:
        MisconfigurationException: the module cannot be copied, or the copy has other parameters or buffers.
    """
    memo = {} if memo is None else memo
    for part in module.modules():  # tensors with a graph, kept on self for convenience, cannot be deep-copied
        for value in vars(part).values():
            detach_into(memo, value)
    try:
        # With gradients a scripted module's copy would have a graph to the original's parameters; a part's own
        # __deepcopy__ may draw initial values.
        with torch.no_grad(), replaying():
            twin: L.LightningModule = copy.deepcopy(module, memo)
    except Exception as error:
        raise MisconfigurationException(
            f"A copy of {type(module).__name__} is needed to run beside it, but copy.deepcopy failed: "
            f"{error!r}. Keep what cannot be copied (open files, locks, generators) out of the module, or leave it "
            "out in __getstate__."
        ) from error
    _pair(module, twin, memo)
    for part in twin.modules():
        for name, value in list(vars(part).items()):
            if hasattr(value, WRAPPED):  # the callback's: the copy gets the method that it wraps
                del vars(part)[name]
                if (own := getattr(value, WRAPPED)) is not None:
                    vars(part)[name] = copy.deepcopy(own, memo)
            elif isinstance(value, FunctionType):
                vars(part)[name] = _rebound(value, memo)
        for hooks in hooks_of(part):
            hooks.update({key: _rebound(hook, memo) for key, hook in hooks.items() if isinstance(hook, FunctionType)})
    if is_compiled(twin):  # a compiled LightningModule: its steps run the original
        for name in _COMPILED:
            vars(twin).pop(name, None)
        mark_uncompiled(twin)
    twin.trainer = trainer
    for name in LOG_METHODS:
        vars(twin)[name] = _silent
    return twin


@torch.no_grad()
def _pair(module: nn.Module, twin: nn.Module, memo: dict[int, Any]) -> None:
    """Enter the copy of every parameter and buffer into ``memo``, with the original's value.

    Deepcopy enters none for a part that is copied in another way, such as a scripted one or one with a
    ``__deepcopy__``, so they are paired by their position.
    """
    ours, theirs = ([*each.named_parameters(), *each.named_buffers()] for each in (module, twin))
    for own, copied in itertools.zip_longest(map(_described, ours), map(_described, theirs)):
        if own != copied:
            raise MisconfigurationException(
                f"A copy of {type(module).__name__} is needed to run beside it, but copy.deepcopy gives one with "
                f"{copied or 'nothing'} in the place of {own or 'nothing'}: let the __deepcopy__ of the part that it "
                "belongs to copy all of it, and pass on its memo, or leave __deepcopy__ out."
            )
    for (_, own), (_, copied) in zip(ours, theirs, strict=True):
        if memo.get(id(own), own) is not copied:
            copied.requires_grad_(own.requires_grad).copy_(own)
            memo[id(own)] = copied


def _described(named: tuple[str, Tensor]) -> str:
    name, tensor = named
    return name if is_lazy(tensor) else f"{name} {list(tensor.shape)}"


def detach_into(memo: dict[int, Any], value: Any) -> None:
    """Let a deep copy take tensors with a graph, also those within containers, without it."""
    if isinstance(value, Tensor):
        if value.grad_fn is not None:
            memo[id(value)] = value.detach().clone()
    elif isinstance(value, (Mapping, list, tuple, set)):
        for entry in value.values() if isinstance(value, Mapping) else value:
            detach_into(memo, entry)


def give_hooks(pairs: Iterable[tuple[Any, Any]], memo: dict[int, Any]) -> None:
    """Give the copies of parameters and optimizers the originals' hooks, which may scale, clip or mask gradients."""
    for own, copied in pairs:
        if own is not copied:  # a frozen part may be shared
            copy_hooks(own, copied, lambda hook: _hook_of_copy(hook, memo))


def _hook_of_copy(hook: Any, memo: dict[int, Any]) -> Any:
    return _rebound(hook, memo) if isinstance(hook, FunctionType) else copy.deepcopy(hook, memo)


def _rebound(function: FunctionType, memo: dict[int, Any]) -> FunctionType:
    """A function that refers to the copies where the original refers to what was copied.

    deepcopy does not copy functions, so one that the instance holds (``self.f = lambda x: self.net(x)``) would go on
    using the original's network.
    """

    def copied(cell: CellType) -> CellType:
        try:
            content = cell.cell_contents
        except ValueError:  # an empty cell
            return cell
        if isinstance(content, MethodType) and id(content.__self__) in memo:  # as in torch.compile(self.method)
            return CellType(MethodType(content.__func__, memo[id(content.__self__)]))
        return CellType(memo[id(content)]) if id(content) in memo else cell

    cells = function.__closure__ or ()
    closure = tuple(copied(cell) for cell in cells)
    if all(new is old for new, old in zip(closure, cells, strict=True)):
        return function
    twin = FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__, closure)
    twin.__kwdefaults__ = function.__kwdefaults__
    twin.__dict__.update(vars(function))
    return twin


def release(twin: L.LightningModule) -> L.LightningModule:
    """Make a plain module, on the CPU, of what :func:`duplicate` made."""
    for name in LOG_METHODS:
        vars(twin).pop(name, None)
    twin.trainer = None
    return twin.cpu()
