"""From config nodes to live objects."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import lightning as L
from hydra.utils import instantiate
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf


def plain(node: DictConfig) -> dict[str, Any]:
    """A config node as plain dictionaries and lists, interpolations resolved."""
    return cast("dict[str, Any]", OmegaConf.to_container(node, resolve=True, throw_on_missing=True))


def build_model(model: dict[str, Any], in_shape: tuple[int, ...] | None, num_classes: int | None) -> L.LightningModule:
    """A new module with freshly drawn weights; a ``network`` among its options is given the shape of the data."""
    options = dict(model)
    if options.get("network") is not None:
        options["network"] = {**options["network"], "in_shape": in_shape, "num_classes": num_classes}
    return cast(L.LightningModule, instantiate(options, _convert_="all"))


def factories(
    config: DictConfig,
) -> tuple[Callable[[], L.LightningModule], Callable[[], L.LightningDataModule], L.LightningDataModule]:
    """Functions that make a module and a data module, and one data module that is already set up.

    The functions can be pickled, so worker processes can call them.
    """
    make_data = partial(instantiate, plain(config.data), _convert_="all")
    data = make_data()
    data.prepare_data()
    data.setup("fit")
    shapes = (getattr(data, "in_shape", None), getattr(data, "num_classes", None))
    make_model = partial(build_model, plain(config.model), *shapes)
    make_model()  # a mistake in the model's options shows now
    return make_model, make_data, data


def trainer_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments of ``lightning.Trainer`` in a whole config, nested objects built."""
    return cast("dict[str, Any]", instantiate(config["trainer"], _target_="builtins.dict", _convert_="all"))


@contextmanager
def open_logger(config: DictConfig, folder: Path) -> Iterator[Logger | None]:
    """Build the logger of the group ``logger`` (None if that is ``none``), log the config to it, and close it.

    It writes into the folder, unless its own config has ``save_dir``.
    """
    if config.logger is None:
        yield None
        return
    logger = cast(Logger, instantiate({"save_dir": str(folder), **plain(config.logger)}))
    logger.log_hyperparams(plain(config))
    status = "failed"
    try:
        yield logger
        status = "success"
    finally:
        logger.finalize(status)
        if type(logger).__name__ == "WandbLogger":
            # Without this, the next job of a sweep would continue the same W&B run.
            import wandb

            wandb.finish(exit_code=int(status != "success"))
