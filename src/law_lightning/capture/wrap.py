"""Functions in the place of a module's methods, for the time of a fit."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import lightning as L

WRAPPED = "_law_lightning_wraps"
"""Marks a function that a callback put on the user's module; holds what the instance had in its place, or None."""


def wrap(module: L.LightningModule, name: str, wrapper: Callable[..., Any]) -> None:
    """Put ``wrapper(module, original, *args, **kwargs)`` in the place of a method, on the instance.

    Args:
        module: the user's module.
        name: of the method.
        wrapper: is given the module and the method as it was, then the arguments of each call.
    """
    original = getattr(module, name)

    @functools.wraps(original)
    def method(*args: Any, **kwargs: Any) -> Any:
        return wrapper(module, original, *args, **kwargs)

    setattr(method, WRAPPED, vars(module).get(name))
    vars(module)[name] = method


def unwrap(module: L.LightningModule, name: str) -> None:
    """Put back what the instance had before :func:`wrap`; does nothing where nothing is wrapped."""
    wrapper = vars(module).get(name)
    if not hasattr(wrapper, WRAPPED):
        return
    own = getattr(wrapper, WRAPPED)
    if own is None:
        del vars(module)[name]
    else:
        vars(module)[name] = own
