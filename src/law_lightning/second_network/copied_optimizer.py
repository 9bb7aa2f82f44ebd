"""The optimizer of a copied module: a copy of the Trainer's, which trains the copy's parameters."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.optim import Optimizer


class WrappedOptimizer(LightningOptimizer):
    """An optimizer as a copied module's hooks get it; ``step`` takes the copy's step."""

    def __init__(self, optimizer: Optimizer, step: Callable[..., Any]) -> None:
        super().__init__(optimizer)
        self._take_step = step

    def step(self, closure: Callable[[], Any] | None = None, **kwargs: Any) -> Any:
        """Take the step that was given."""
        return self._take_step(closure, **kwargs)


def copy_optimizer(optimizer: Optimizer, module: nn.Module, memo: dict[int, Any]) -> Optimizer:
    """A copy that trains the parameters of the copy of ``module`` that ``memo``, deepcopy's, holds.

    Raises:
        MisconfigurationException: the copied module has no parameter of its own for one that the optimizer trains.
    """
    trained = _parameters(optimizer)
    expected = [memo.get(id(each)) for each in trained]  # before the optimizer's copy adds those that it lacks
    twin: Optimizer = copy.deepcopy(optimizer, memo)
    for name, value in vars(optimizer).items():  # torch's own deep copy keeps only defaults, state and groups
        if name not in vars(twin) and name != "step":  # schedulers wrap step on the instance
            vars(twin)[name] = copy.deepcopy(value, memo)
    for own, copied, found in zip(trained, expected, _parameters(twin), strict=True):
        if copied is None or copied is own or copied is not found:
            raise _without_copy(module, own)
    return twin


def add_new_groups(twin: Optimizer, optimizer: Optimizer, module: nn.Module, copied: nn.Module) -> None:
    """Add to ``twin`` the parameter groups that ``optimizer`` has been given since.

    Raises:
        MisconfigurationException: as for :func:`copy_optimizer`.
    """
    new = optimizer.param_groups[len(twin.param_groups) :]
    twins = dict(zip(module.parameters(), copied.parameters(), strict=True)) if new else {}
    for group in new:
        for each in group["params"]:
            if twins.get(each, each) is each:
                raise _without_copy(module, each)
        twin.add_param_group({**group, "params": [twins[each] for each in group["params"]]})


def options_of(optimizer: Optimizer) -> list[dict[str, Any]]:
    """The options (learning rates and the like) of each parameter group."""
    return [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]


def set_options(optimizer: Optimizer, options: Sequence[dict[str, Any]]) -> None:
    """Give each parameter group its options."""
    for group, given in zip(optimizer.param_groups, options, strict=True):
        group.update(given)


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _without_copy(module: nn.Module, parameter: Tensor) -> MisconfigurationException:
    names = {id(each): name for name, each in module.named_parameters()}
    name = names.get(id(parameter), f"a parameter of shape {list(parameter.shape)} outside of it")
    return MisconfigurationException(
        f"A copy of {type(module).__name__} is to train beside it, but its optimizer trains {name}, of which "
        "the copy has none of its own: make it an attribute of the module, and let a __deepcopy__ copy it."
    )
