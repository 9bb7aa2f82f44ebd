"""Adam on a flat tensor: a step without the optimizer's overhead, and its state in terms of the parameters."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim.adam import Adam, adam

from law_lightning.agent.flat import Flat

_MOMENTS = ("exp_avg", "exp_avg_sq")


def step(optimizer: Adam) -> None:
    """The same as ``optimizer.step()`` of a fused Adam on one tensor, in half the time; it calls no hooks."""
    (group,) = optimizer.param_groups
    (values,) = group["params"]
    state = optimizer.state[values]
    if not state:  # the first step: the optimizer makes its state
        optimizer.step()
        return
    beta1, beta2 = group["betas"]
    with torch.no_grad():
        adam(
            [values], [values.grad], [state["exp_avg"]], [state["exp_avg_sq"]], [], [state["step"]],
            fused=True, amsgrad=False, beta1=beta1, beta2=beta2, lr=group["lr"], weight_decay=0.0, eps=group["eps"],
            maximize=False,
        )  # fmt: skip


def moments(optimizer: Adam) -> list[torch.Tensor]:
    """What a fused Adam on one tensor remembers: two moments and the number of its steps; zeros before the first."""
    (values,) = optimizer.param_groups[0]["params"]
    state = optimizer.state[values]
    if not state:
        state |= {name: torch.zeros_like(values) for name in _MOMENTS} | {"step": torch.zeros(())}
    return [state["exp_avg"], state["exp_avg_sq"], state["step"]]


def parameter_state(optimizer: Adam, flat: Flat, parameters: list[nn.Parameter]) -> dict[str, Any]:
    """The optimizer's ``state_dict`` as that of an Adam on single parameters: it outlives the layout.

    Args:
        optimizer: on a part of the flat tensor that begins with the first of the parameters.
        flat: the layout.
        parameters: those in that part, in the order of the state.
    """
    state = optimizer.state_dict()
    (group,) = state["param_groups"]
    single = {}
    for index, parameter in enumerate(parameters if state["state"] else ()):
        whole = state["state"][0]
        begin = flat.start(parameters[0])
        single[index] = {"step": whole["step"].clone()} | {
            name: flat.part(whole[name], parameter, begin).clone() for name in _MOMENTS
        }
    return {"state": single, "param_groups": [{**group, "params": list(range(len(parameters)))}]}


def load_parameter_state(optimizer: Adam, flat: Flat, parameters: list[nn.Parameter], state: dict[str, Any]) -> None:
    """Give the optimizer what :func:`parameter_state` took.

    Raises:
        ValueError: the state is that of other parameters.
    """
    (group,) = state["param_groups"]
    if len(group["params"]) != len(parameters) or len(state["state"]) not in (0, len(parameters)):
        raise ValueError(f"the optimizer's state is not that of {len(parameters)} parameters")
    beta1, beta2 = map(float, group["betas"])
    given = {"lr": float(group["lr"]), "betas": (beta1, beta2), "eps": float(group["eps"])}
    whole = {}
    if state["state"]:
        (values,) = optimizer.param_groups[0]["params"]
        begin = flat.start(parameters[0])
        step = state["state"][0]["step"]
        if step.shape != ():
            raise ValueError(f"the optimizer's state has {list(step.shape)} steps, not one number")
        whole[0] = {"step": step.clone()} | {name: torch.zeros_like(values) for name in _MOMENTS}
        for index, parameter in enumerate(parameters):
            for name in _MOMENTS:
                saved = state["state"][index][name]
                if saved.shape != parameter.shape:
                    raise ValueError(f"the optimizer's state has {list(saved.shape)} for {list(parameter.shape)}")
                flat.part(whole[0][name], parameter, begin).copy_(saved)
    # The other options are always those that the agent's optimizers are made with.
    own = optimizer.state_dict()["param_groups"][0]
    optimizer.load_state_dict({"state": whole, "param_groups": [{**own, **given, "params": [0]}]})
