"""From config nodes to live objects."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, cast

import lightning as L
from hydra.utils import instantiate
from omegaconf import OmegaConf

if TYPE_CHECKING:
    from collections.abc import Callable

    from omegaconf import DictConfig


def plain(node: DictConfig) -> dict[str, Any]:
    """A config node as plain dictionaries and lists, interpolations resolved."""
    return cast("dict[str, Any]", OmegaConf.to_container(node, resolve=True, throw_on_missing=True))


def build_data(data: dict[str, Any]) -> L.LightningDataModule:
    """A new data module."""
    return cast(L.LightningDataModule, instantiate(data, _convert_="all"))


def build_model(model: dict[str, Any], in_shape: tuple[int, ...] | None, num_classes: int | None) -> L.LightningModule:
    """A new module with freshly drawn weights.

    A ``network`` among the options is built first and told the shape of the data, so that a config need not
    repeat it. A module without one is built as its config says.
    """
    options = dict(model)
    network = options.pop("network", None)
    module = instantiate(options, _convert_="all", _partial_=True)
    if network is not None:
        module = partial(
            module, network=instantiate(network, in_shape=in_shape, num_classes=num_classes, _convert_="all")
        )
    return cast(L.LightningModule, module())


def factories(
    config: DictConfig,
) -> tuple[Callable[[], L.LightningModule], Callable[[], L.LightningDataModule], L.LightningDataModule]:
    """Functions that make a module and a data module, and one data module that is already set up.

    The functions can be pickled, so worker processes can call them.
    """
    make_data = partial(build_data, plain(config.data))
    data = make_data()
    data.prepare_data()
    data.setup("fit")
    shapes = (getattr(data, "in_shape", None), getattr(data, "num_classes", None))
    make_model = partial(build_model, plain(config.model), *shapes)
    make_model()  # a mistake in the model's options shows now
    return make_model, make_data, data


def trainer_options(config: DictConfig) -> dict[str, Any]:
    """The keyword arguments of ``lightning.Trainer``, nested objects built."""
    return trainer_arguments(plain(config.trainer))


def trainer_arguments(options: dict[str, Any]) -> dict[str, Any]:
    """The same from a plain dictionary."""
    return cast("dict[str, Any]", instantiate({**options, "_target_": "builtins.dict"}, _convert_="all"))
