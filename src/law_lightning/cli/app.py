"""What every command shares: the start through Hydra, and errors as one clear message."""

from __future__ import annotations

import functools
import logging
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.fabric.utilities.exceptions import MisconfigurationException

from law_lightning.search.workers import WorkerLostError

if TYPE_CHECKING:
    from omegaconf import DictConfig

Task = Callable[["DictConfig"], Any]


def launch(task: Task, config_name: str) -> None:
    """Run ``task`` as a Hydra app with the config groups of this package.

    Args:
        task: Takes the composed config.
        config_name: Name of the primary config, such as ``law_search``.

    Raises:
        SystemExit: If Hydra is missing, or with the message of an error in what the user asked for.
            ``HYDRA_FULL_ERROR=1`` shows such errors with their traceback.
    """
    command = config_name.replace("_", "-")
    try:
        import hydra
    except ImportError:
        raise SystemExit(
            f'{command} needs hydra-core, which is not installed. Mend it with: pip install "law-lightning[cli]"'
        ) from None
    decorate = hydra.main(version_base="1.3", config_path="pkg://law_lightning.conf", config_name=config_name)
    decorate(guarded(task, command))()


def guarded(task: Task, command: str) -> Task:
    """Wrap ``task``: checks before it, quiet libraries during it, user errors as one line."""
    from hydra.errors import InstantiationException
    from omegaconf.errors import OmegaConfBaseException

    @functools.wraps(task)
    def run(config: DictConfig) -> Any:
        try:
            _refuse_ddp_sweep(config)
            _quiet()
            return task(config)
        except (
            InstantiationException,
            MisconfigurationException,
            ModuleNotFoundError,
            OmegaConfBaseException,
            OSError,
            ValueError,
            WorkerLostError,
        ) as error:
            if os.environ.get("HYDRA_FULL_ERROR") == "1":
                raise
            raise SystemExit(f"{command}: {plain_message(error)}") from error

    return run


def plain_message(error: BaseException) -> str:
    """The message a user needs: an error inside a constructor is shown with the config key it came from."""
    from hydra.errors import InstantiationException
    from omegaconf import MissingMandatoryValue

    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} must be given: add {error.full_key}=..."
    if isinstance(error, InstantiationException) and error.__cause__ is not None:
        last = str(error).rstrip().rsplit("\n", 1)[-1]
        where = f" (config key: {last.removeprefix('full_key: ')})" if last.startswith("full_key: ") else ""
        return f"{plain_message(error.__cause__)}{where}"
    return str(error)


def output_folder() -> Path:
    """The folder of this run, or of this job of a sweep."""
    from hydra.core.hydra_config import HydraConfig

    return Path(HydraConfig.get().runtime.output_dir)


def _refuse_ddp_sweep(config: DictConfig) -> None:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    strategy = str((config.get("trainer") or {}).get("strategy", "auto"))
    if strategy.startswith("ddp") and HydraConfig.get().mode == RunMode.MULTIRUN:
        raise MisconfigurationException(
            f"trainer.strategy={strategy} does not work in a sweep (-m): its processes would start the whole "
            "sweep again. Run each setting as a command of its own, without -m, or sweep with "
            "trainer.devices=1 and without trainer.strategy."
        )


def _quiet() -> None:
    """Silence remarks that hold for every small training and would bury the progress bar."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for message in (
        ".*does not have many workers.*",
        ".*GPU available but not used.*",
        ".*exists and is not empty.*",  # Hydra has made the run folder before the logger comes to it
        ".*LeafSpec.*",
        ".*could not find the monitored key.*",  # nothing validates where all data are trained on
    ):
        warnings.filterwarnings("ignore", message)
