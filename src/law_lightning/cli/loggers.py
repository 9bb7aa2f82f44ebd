"""The logger of a run: opened with the config, closed whatever happens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

from hydra.utils import instantiate
from lightning.pytorch.loggers import Logger

from law_lightning.cli.build import plain

if TYPE_CHECKING:
    from omegaconf import DictConfig


@contextmanager
def open_logger(config: DictConfig, folder: Path) -> Iterator[Logger | None]:
    """Build the logger of the group ``logger`` and log the config to it; None where the group is ``none``.

    Args:
        config: The whole config.
        folder: Where the logger writes, unless its own config has ``save_dir``.
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
            # Without this, the next job of a sweep would go on in the same W&B run.
            import wandb

            wandb.finish(exit_code=int(status != "success"))
