"""From config nodes to live objects."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import lightning as L
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from lightning.pytorch.utilities.seed import isolate_rng
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from law_lightning.callbacks.checks import check_package
from law_lightning.cli.own import parameters, requires

_SHAPE = ("in_shape", "num_classes")
#: The files of a run folder that a run of Weights & Biases keeps, by the kind of artifact.
ARTIFACTS = {"strategy": "strategy.safetensors", "suspects": "suspects.*", "figures": "search.png"}


def plain(node: DictConfig) -> dict[str, Any]:
    """A config node as plain dictionaries and lists, interpolations resolved."""
    return cast("dict[str, Any]", OmegaConf.to_container(node, resolve=True, throw_on_missing=True))


def build_model(model: dict[str, Any], **shape: Any) -> L.LightningModule:
    """A new module with freshly drawn weights; it and its network are given what they take of the data's ``shape``."""
    options, *network = (
        {name: value for name, value in shape.items() if name in parameters(node["_target_"])} | node
        for node in _called(model)
    )
    options |= {"network": network[0]} if network else {}
    return cast(L.LightningModule, instantiate(options, _convert_="all"))


def factories(
    config: DictConfig,
) -> tuple[Callable[[], L.LightningModule], Callable[[], L.LightningDataModule], L.LightningDataModule]:
    """Functions that make a module and a data module, and one data module that is already set up.

    The functions can be pickled, so worker processes can call them.
    """
    make_data = partial(instantiate, plain(config.data), _convert_="all")
    data, model = _ready(make_data()), plain(config.model)
    shape = {name: value for name in _SHAPE if (value := getattr(data, name, None)) is not None}
    missing = {
        name
        for node in _called(model)
        for name in _SHAPE
        if name not in shape | node and requires(node["_target_"], name)
    }
    if missing:
        shape |= read_shape(data, missing)
        data = _ready(make_data())  # reading may have moved generators of the first
    make_model = partial(build_model, model, **shape)
    check_package(make_model(), data)  # a mistake in the model's options shows now
    return make_model, make_data, data


def read_shape(data: L.LightningDataModule, names: Collection[str]) -> dict[str, Any]:
    """``in_shape`` or ``num_classes`` of data, or both, from the pairs (inputs, class indices) of its training loader.

    Raises:
        ValueError: Its batches are no such pairs.
    """
    shape: dict[str, Any] = {}
    with isolate_rng():
        for batch in data.train_dataloader():
            inputs, target = batch if isinstance(batch, (tuple, list)) and len(batch) == 2 else (None, None)
            if not isinstance(inputs, Tensor) or not isinstance(target, Tensor) or target.is_floating_point():
                raise ValueError(
                    f"The network is made for the shape of the data, but {type(data).__name__} has no "
                    f"{' and '.join(sorted(names))}, and its training batches are not (inputs [B, ...], class indices "
                    "[B]), which would tell: give it these attributes, or set them, as in +model.network.num_classes=2."
                )
            classes = max(shape.get("num_classes", 0), int(target.max()) + 1)
            shape = {"in_shape": tuple(inputs.shape[1:]), "num_classes": classes}
            if "num_classes" not in names:
                break
    return {name: shape[name] for name in names}


def _ready(data: L.LightningDataModule) -> L.LightningDataModule:
    data.prepare_data()
    data.setup("fit")
    return data


def _called(model: dict[str, Any]) -> list[dict[str, Any]]:
    """The configs of a module and of a network among its options."""
    network = model.get("network")
    return [model, network] if isinstance(network, dict) and "_target_" in network else [model]


def trainer_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments of ``lightning.Trainer`` in a whole config, nested objects built."""
    return cast("dict[str, Any]", instantiate(config["trainer"], _target_="builtins.dict", _convert_="all"))


@contextmanager
def open_logger(config: DictConfig, folder: Path) -> Iterator[Logger | None]:
    """Build the logger of the group ``logger`` (None if that is ``none``), log the config to it, and close it.

    It writes into the folder, unless its own config has ``save_dir``. A run of Weights & Biases keeps what the folder
    holds of ``ARTIFACTS`` when it ends.
    """
    if config.logger is None:
        yield None
        return
    options = {"save_dir": str(folder), **plain(config.logger)}
    options |= {name: value for name, value in _of_this_job().items() if name in options and options[name] is None}
    logger = cast(Logger, instantiate(options))
    logger.log_hyperparams(plain(config))
    status = "failed"
    try:
        yield logger
        status = "success"
    finally:
        logger.finalize(status)
        if isinstance(logger, WandbLogger):
            import wandb

            first = getattr(rank_zero_only, "rank", 0) == 0
            for kind, pattern in ARTIFACTS.items() if first and status == "success" else ():
                if files := sorted(folder.glob(pattern)):
                    artifact = wandb.Artifact(f"{kind}-{logger.experiment.id}", type=kind)
                    for file in files:
                        artifact.add_file(str(file))
                    logger.experiment.log_artifact(artifact)
            # Without this, the next job of a sweep would continue the same run.
            wandb.finish(exit_code=int(status != "success"))


def _of_this_job() -> dict[str, Any]:
    """What a run of Weights & Biases is called, if the config does not say it; the name tells jobs of a sweep apart."""
    hydra, name = HydraConfig.get(), None
    if hydra.mode == RunMode.MULTIRUN:
        settings = [each for each in hydra.overrides.task if not each.lstrip("+~").startswith(("logger", "run_dir"))]
        name = f"{hydra.job.num}: {' '.join(settings)}"[:128]  # longer ones are refused
    choices = hydra.runtime.choices  # of the groups that one's own data or model did not replace
    tags = [choices[group] for group in ("data", "corruption", "model") if choices.get(group)]
    return {"name": name, "job_type": hydra.job.name, "tags": tags}
