"""What every command shares: the start through Hydra, and errors as one clear message."""

from __future__ import annotations

import errno
import functools
import logging
import os
import re
import traceback
import warnings
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

import hydra
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from lightning.fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, MissingMandatoryValue, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from law_lightning.cli.own import keep_own_options, own_classes, place_of
from law_lightning.search.workers import WorkerLostError

Task = Callable[[DictConfig], Any]
_USER_ERRORS = (
    *(InstantiationException, MisconfigurationException, OmegaConfBaseException, WorkerLostError),
    *(ModuleNotFoundError, OSError, ValueError),
)


def command(config_name: str, resumes: bool = False) -> Callable[[Task], Callable[[], None]]:
    """Make a task the entry point of a command: a Hydra app with the config groups of this package.

    Args:
        config_name: Name of the primary config, such as ``law_search``.
        resumes: Whether the same command goes on in its ``run_dir`` where it was stopped.
    """
    app = hydra.main(version_base="1.3", config_path="pkg://law_lightning.conf", config_name=config_name)
    return lambda task: app(guarded(task, config_name.replace("_", "-"), resumes))


def guarded(task: Task, name: str, resumes: bool = False) -> Task:
    """A task whose user errors, and Ctrl-C, end the program with one line that begins with ``name``.

    So does any error where a module or a data module is the user's own. ``HYDRA_FULL_ERROR=1`` shows their traceback.
    """

    @functools.wraps(task)
    def run(config: DictConfig) -> Any:
        try:
            _refuse_ddp_sweep(config)
            if HydraConfig.initialized():
                _refuse_misspelt()
            quiet()
            keep_own_options(config)
            return task(config)
        except BaseException as error:
            message = _message(error, config, resumes)
            if message is None or os.environ.get("HYDRA_FULL_ERROR") == "1":
                raise
            raise SystemExit(f"{name}: {message}") from error

    return run


def _message(error: BaseException, config: DictConfig, resumes: bool) -> str | None:
    """What the user is told of an error; None for what is not the user's."""
    folder = OmegaConf.select(config, "run_dir")
    again = (
        f"The same command with run_dir={folder} goes on after what was saved."
        if resumes
        else "The same command starts over."
    )
    if isinstance(error, KeyboardInterrupt) or isinstance(error.__context__, KeyboardInterrupt):  # the Trainer's exit
        return f"stopped. {again}"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{str(error).rstrip('.')}. Make room on that disk, or name a folder on another. {again}"
    if isinstance(error, _USER_ERRORS) or (isinstance(error, Exception) and own_classes(config)):
        return plain_message(error)
    return None


def plain_message(error: BaseException) -> str:
    """The message a user needs: an error inside a constructor is shown with the config key it came from."""
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} must be given: add {error.full_key}=..."
    if isinstance(error, InstantiationException) and error.__cause__ is not None:
        last = str(error).rstrip().rsplit("\n", 1)[-1]
        where = f" (config key: {last.removeprefix('full_key: ')})" if last.startswith("full_key: ") else ""
        return f"{plain_message(error.__cause__)}{where}"
    if isinstance(error, _USER_ERRORS):
        return str(error)
    text = traceback.format_exception_only(error)[0].strip()
    return f"{text}{place_of(error)}. HYDRA_FULL_ERROR=1 shows the traceback."


def quiet() -> None:
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


def _refuse_misspelt() -> None:
    """Raise a ValueError for an option that was added with + and has nearly the name of one that exists.

    Hydra advises the + wherever it does not know an option, and then nothing would read it.
    """
    hydra = HydraConfig.get()
    if added := [re.split(r"[=@./]", text.lstrip("+"))[0] for text in hydra.overrides.task if text.startswith("+")]:
        known = {str(key) for key in compose(hydra.job.config_name, hydra.overrides.hydra)}
        for name in set(added) - known:
            if near := get_close_matches(name, known, 1, 0.7):
                raise ValueError(
                    f"There is no option {name}: did you mean {near[0]}, as in {near[0]}=... without the +?"
                )


def _refuse_ddp_sweep(config: DictConfig) -> None:
    strategy = str(OmegaConf.select(config, "trainer.strategy"))
    if strategy.startswith("ddp") and HydraConfig.get().mode == RunMode.MULTIRUN:
        raise MisconfigurationException(
            f"trainer.strategy={strategy} does not work in a sweep (-m): its processes would start the whole sweep "
            "again. Run each setting as a command of its own, without -m, or sweep with trainer.devices=1 alone."
        )
