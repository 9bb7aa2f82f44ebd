"""Functions in the place of a module's methods, for the time of a fit."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import lightning as L

#: Marks a function that a callback put on the user's module; holds what the instance had in its place, or None.
WRAPPED = "_law_lightning_wraps"


def wrap(module: L.LightningModule, name: str, wrapper: Callable[..., Any]) -> None:
    """Call ``wrapper(module, original, *args, **kwargs)`` in the place of a method, which is ``original`` to it."""
    original = getattr(module, name)

    @functools.wraps(original)
    def method(*args: Any, **kwargs: Any) -> Any:
        return wrapper(module, original, *args, **kwargs)

    setattr(method, WRAPPED, vars(module).get(name))
    vars(module)[name] = method


def unwrap(module: L.LightningModule, name: str) -> None:
    """Put back what the instance had before :func:`wrap`; does nothing where nothing is wrapped."""
    wrapper = vars(module).get(name)
    if hasattr(wrapper, WRAPPED):
        del vars(module)[name]
        if (own := getattr(wrapper, WRAPPED)) is not None:
            vars(module)[name] = own
