"""Strategies of earlier versions, brought into the form of this one. Their files were torch's, ``strategy.pt``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

#: What strategies were like before their files said so.
FORMER: dict[str, Any] = {
    "members": 1, "imitation": 0.0, "phase_accuracy": "training", "relative_loss": True, "feature_scale": 0.3,
    "zero_init": True, "embedding_loss": "actor",
}  # fmt: skip


def of_today(state: dict[str, Any]) -> dict[str, Any]:
    """A strategy's state as :meth:`law_lightning.StrategyAgent.full_state` gives it.

    Earlier versions had a state for each member, the first holding the ``others``, with the networks of
    :class:`torch.nn.Linear` and the states of two optimizers. The optimizers' number of steps, now one for all members,
    is the first's.
    """
    state = {"learned": state["updates"]} | state  # once the two were always the same
    state["hparams"] = FORMER | state["hparams"]
    if state["networks"]["embedding.weight"].ndim == 3:
        return state
    members = [state, *state.pop("others", [])]
    names = list(state["networks"])
    networks = {name: _stacked([each["networks"][name] for each in members], name) for name in names}
    moments: dict[str, Tensor] = {}
    for number, parts in enumerate((("critic.",), ("actor.", "embedding."))):
        states = [each["optimizers"][number]["state"] if each["optimizers"] else {} for each in members]
        learned = [name for part in parts for name in names if name.startswith(part)]
        for index, name in enumerate(learned if states[0] else []):
            moments[f"{name}.step"] = states[0][index]["step"]
            for moment in ("exp_avg", "exp_avg_sq"):
                zero = torch.zeros_like(states[0][index][moment])  # of a member that has not learned yet
                found = [each[index][moment] if each else zero for each in states]
                moments[f"{name}.{moment}"] = _stacked(found, name)
    return state | {"networks": networks, "optimizers": moments}


def _stacked(tensors: list[Tensor], name: str) -> Tensor:
    stacked = torch.stack(tensors)
    return stacked.mT.contiguous() if ".network." in name and name.endswith("weight") else stacked
