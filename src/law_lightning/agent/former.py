"""Strategies of earlier versions, converted to the present form. Their files were torch's, ``strategy.pt``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from law_lightning.utilities.files import save_tensors

#: Hyper-parameters of strategies whose files do not state them, as they had not been introduced.
FORMER: dict[str, Any] = {
    "members": 1, "imitation": 0.0, "phase_accuracy": "training", "relative_loss": True, "feature_scale": 0.3,
    "zero_init": True, "embedding_loss": "actor", "init": None, "renormalize": False,
}  # fmt: skip


def upgraded(state: dict[str, Any]) -> dict[str, Any]:
    """A strategy's state as :meth:`law_lightning.StrategyAgent.full_state` gives it.

    Earlier versions had a state for each member, the first holding the ``others``, with the networks of
    :class:`torch.nn.Linear`. The state of their optimizers is dropped.
    """
    state = {"learned": state["updates"]} | state  # the two were always the same
    state["hparams"] = FORMER | state["hparams"]
    if state["networks"]["embedding.weight"].ndim == 3:
        return state
    members = [each["networks"] for each in (state, *state.pop("others", []))]
    return state | {"networks": {name: _stacked(name, members) for name in members[0]}, "optimizers": {}}


def _stacked(name: str, members: list[dict[str, Tensor]]) -> Tensor:
    stacked = torch.stack([networks[name] for networks in members])
    return stacked.mT.contiguous() if ".network." in name and name.endswith("weight") else stacked


def differences(given: Mapping[str, Any], own: Mapping[str, Any]) -> list[str]:
    """Hyper-parameters of a state, as ``name=value``, that are not an agent's own.

    What an earlier version's file lacks is as in :data:`FORMER`; any value of imitation agrees with it.
    """
    given = FORMER | {"imitation": own["imitation"]} | dict(given)
    changed = [f"{name}={value!r}" for name, value in given.items() if name not in own or own[name] != value]
    return changed + [f"without {name}" for name in own if name not in given]


def save_strategy(path: str | Path, state: dict[str, Any]) -> None:
    """Write a strategy's full state, of this version or an earlier one, to a file that ``StrategyAgent`` loads."""
    save_tensors(path, "strategy", upgraded(state))
