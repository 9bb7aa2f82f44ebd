"""The strategy's hyper-parameters, checked before anything is built."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from law_lightning import functional as LF

#: What must hold of hyper-parameters that are not None: in the words of the error, as a function, and of which.
_RULES: dict[str, tuple[Callable[[Any], bool], Sequence[str]]] = {
    "at least 1": (lambda value: value >= 1, ["num_stages", "embedding_dim", "batch_size", "n_step", "members"]),
    "greater than 0": (lambda value: value > 0, ["epochs", "actor_lr", "critic_lr", "theta_bound", "feature_scale"]),
    "a number of at least 0": (
        lambda value: 0 <= value < math.inf,
        ["action_penalty", "imitation", "episode_noise", "stage_noise"],
    ),
    "in [0, 1]": (lambda value: 0 <= value <= 1, ["discount", "target_rate"]),
    "in (0, 1]": (lambda value: 0 < value <= 1, ["noise_decay"]),
    "widths of at least 1": (lambda widths: all(width >= 1 for width in widths), ["hidden"]),
    "'validation' or 'training'": (lambda value: value in ("validation", "training"), ["phase_accuracy"]),
    "'actor' or 'both'": (lambda value: value in ("actor", "both"), ["embedding_loss"]),
    f"distinct names out of {', '.join(LF.KNOWN_FEATURES)}": (
        lambda names: 0 < len(names) == len(set(names)) and set(names) <= set(LF.KNOWN_FEATURES),
        ["features"],
    ),
    "'general' or None": (lambda value: value == "general", ["init"]),
}


def checked(given: Mapping[str, Any]) -> dict[str, Any]:
    """Hyper-parameters as plain Python, from any kinds of numbers and lists.

    Raises:
        ValueError: names one that is out of its range.
    """
    own = {name: _plain(value) for name, value in given.items()}
    for words, (holds, names) in _RULES.items():
        for name in names:
            if own[name] is not None and not holds(own[name]):
                raise ValueError(f"{name} must be {words}, not {own[name]!r}.")
    if own["init"] is not None and "margin" not in own["features"]:
        raise ValueError("init='general' is a rule for the feature margin: use features=('margin',), or more with it.")
    if not 0 <= own["warmup_stages"] < own["num_stages"]:
        raise ValueError(f"warmup_stages must be in 0 to {own['num_stages'] - 1}, not {own['warmup_stages']}.")
    return own


def _plain(value: Any) -> Any:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(each) for each in value]
    return value.item() if hasattr(value, "item") else value
