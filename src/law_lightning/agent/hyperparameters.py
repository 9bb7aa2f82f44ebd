"""The strategy's hyper-parameters, checked before anything is built."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from law_lightning import functional as LF

_AT_LEAST_ONE = ("num_stages", "embedding_dim", "batch_size", "n_step", "members")
_POSITIVE = ("epochs", "actor_lr", "critic_lr", "theta_bound", "feature_scale")
_AT_LEAST_ZERO = ("action_penalty", "imitation")
_SHARE = ("discount", "target_rate")
_ONE_OF = {"phase_accuracy": ("validation", "training"), "embedding_loss": ("actor", "both")}

# Strategies are tiny. Beyond these a slip, or a damaged file, would use up the memory instead of being named.
_MOST_PARAMETERS = 10**8
_MOST = {"members": 1000, "layers": 100}


def plain(given: Mapping[str, Any]) -> dict[str, Any]:
    """Hyper-parameters as plain Python, whatever kinds of numbers and lists they were given as."""

    def one(value: Any) -> Any:
        if isinstance(value, Sequence) and not isinstance(value, str):
            return [one(each) for each in value]
        return value.item() if hasattr(value, "item") else value

    return {name: one(value) for name, value in given.items()}


def check_hyperparameters(given: Mapping[str, Any]) -> None:
    """Raise a ValueError that names the first hyper-parameter out of its range. None means "without" where allowed."""
    features = given["features"]
    if not features or len(set(features)) != len(features) or not set(features) <= set(LF.FEATURES):
        raise ValueError(f"features must be distinct names out of {', '.join(LF.FEATURES)}, not {features}.")
    for name in _AT_LEAST_ONE:
        if given[name] is not None and given[name] < 1:
            raise ValueError(f"{name} must be at least 1, not {given[name]}.")
    for name in (*_AT_LEAST_ONE, "epochs"):
        if given[name] is not None and given[name] >= 2**31:
            raise ValueError(f"{name} must be below 2**31, not {given[name]}.")
    for name in _POSITIVE:
        if given[name] is not None and not given[name] > 0:
            raise ValueError(f"{name} must be greater than 0, not {given[name]}.")
    for name in _SHARE:
        if given[name] is not None and not 0 <= given[name] <= 1:
            raise ValueError(f"{name} must be in [0, 1], not {given[name]}.")
    for name, names in _ONE_OF.items():
        if given[name] not in names:
            raise ValueError(f"{name} must be {' or '.join(map(repr, names))}, not {given[name]!r}.")
    if not 0 <= given["warmup_stages"] < given["num_stages"]:
        raise ValueError(f"warmup_stages must be in 0 to {given['num_stages'] - 1}, not {given['warmup_stages']}.")
    if any(width < 1 for width in given["hidden"]):
        raise ValueError(f"hidden must be widths of at least 1, not {given['hidden']}.")
    for name in _AT_LEAST_ZERO:
        if not 0 <= given[name] < math.inf:
            raise ValueError(f"{name} must be a number of at least 0, not {given[name]}.")
    if given["members"] > _MOST["members"] or len(given["hidden"]) > _MOST["layers"]:
        raise ValueError(
            f"There may be {_MOST['members']} members with {_MOST['layers']} hidden layers at most, not "
            f"{given['members']} with {len(given['hidden'])}."
        )
    widths = [given["embedding_dim"] + 2 + len(features) + 1, *given["hidden"], 1]
    each = given["num_stages"] * given["embedding_dim"] + 2 * sum(a * b for a, b in itertools.pairwise(widths))
    if each * given["members"] > _MOST_PARAMETERS:
        raise ValueError(
            f"The strategy would have about {each * given['members']} parameters, more than {_MOST_PARAMETERS}: choose "
            "a smaller hidden, embedding_dim, num_stages or members."
        )
