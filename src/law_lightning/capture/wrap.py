"""Replacing methods of a module for the duration of a fit."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import lightning as L

#: Marks a function that a callback put on the user's module; its value is what the instance had before, or None.
WRAPPED = "_law_lightning_wraps"


def wrap(module: L.LightningModule, name: str, wrapper: Callable[..., Any]) -> None:
    """Replace the method ``name``, the ``original``, by ``wrapper(module, original, *args, **kwargs)``."""
    original = getattr(module, name)

    @functools.wraps(original)
    def method(*args: Any, **kwargs: Any) -> Any:
        return wrapper(module, original, *args, **kwargs)

    setattr(method, WRAPPED, vars(module).get(name))
    vars(module)[name] = method


def unwrap(module: L.LightningModule, name: str) -> None:
    """Restore what the instance had before :func:`wrap`; does nothing where nothing is wrapped."""
    wrapper = vars(module).get(name)
    if hasattr(wrapper, WRAPPED):
        del vars(module)[name]
        if (own := getattr(wrapper, WRAPPED)) is not None:
            vars(module)[name] = own
