"""Classes of the user's own, which a command is given by their names: what they are called with, and their errors."""

from __future__ import annotations

import inspect
import pydoc
import sys
import sysconfig
import traceback
from pathlib import Path
from typing import Any, cast

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

_PARTS = ("model", "data")
#: The config groups that give these parts their options.
_GROUPS = (*_PARTS, "schedule")
#: Where Python, installed packages and this one are.
_INSTALLED = (*map(sysconfig.get_path, ("stdlib", "purelib", "platlib")), str(Path(__file__).parents[1]))


def own_classes(config: DictConfig) -> dict[str, str]:
    """The ``_target_`` of ``model`` and of ``data``, where it is not of this package."""
    named = {part: OmegaConf.select(config, f"{part}._target_") for part in _PARTS}
    return {part: target for part, target in named.items() if target and not target.startswith("law_lightning.")}


def keep_own_options(config: DictConfig) -> None:
    """Take out of the config what is there for the class of a config group, where an own class is in its place.

    An own class gets the options that the user has set and, of the group's, those that it requires. A subclass of the
    group's class gets all of them that it takes.

    Raises:
        ValueError: An own class cannot be found, or does not take its options.
    """
    own = own_classes(config)
    if not own:
        return
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # as for any script; that of a command is in another folder
    hydra = HydraConfig.get()
    chosen = [f"{group}={choice}" for group, choice in hydra.runtime.choices.items() if choice and group in _GROUPS]
    groups = compose(hydra.job.config_name, [*hydra.overrides.hydra, *chosen])
    named = [text.lstrip("+").split("=")[0] + "." for text in hydra.overrides.task]
    for part, target in own.items():
        of_group, given = _plain(groups[part]), _plain(config[part])
        if part in hydra.runtime.choices and of_group["_target_"] != target:
            needs = takes if _inherits(target, of_group["_target_"]) else requires
            for name in [name for name in of_group if not name.startswith("_") and name in given]:
                changed = given[name] not in (of_group[name], None)
                is_set = changed or any(each.startswith(f"{part}.{name}.") for each in named)
                if not (is_set or needs(target, name)):
                    with open_dict(config):
                        del config[part][name]
        others = [name for name in config[part] if not (name.startswith("_") or takes(target, name))]
        if others:
            raise ValueError(
                f"{part}._target_={target} takes no {', '.join(others)} (it takes "
                f"{', '.join(parameters(target)) or 'nothing'}): do not set it, or take it out of the config with "
                f"{' '.join(f'~{part}.{name}' for name in others)}."
            )


def _plain(node: DictConfig) -> dict[str, Any]:
    """A config node as plain dictionaries and lists, interpolations resolved."""
    return cast("dict[str, Any]", OmegaConf.to_container(node, resolve=True))


def located(target: str) -> Any:
    """A class or function by its dotted name.

    Raises:
        ValueError: There is none.
    """
    try:
        found = pydoc.locate(target)
    except pydoc.ErrorDuringImport as error:
        raise ValueError(f"{target} cannot be imported: {type(error.value).__name__}: {error.value}") from error.value
    if found is None:
        raise ValueError(
            f"There is no {target}: check the name; its module must be in this folder, installed or on PYTHONPATH."
        )
    return found


def parameters(target: str) -> dict[str, inspect.Parameter]:
    """What a class or function is called with, by name.

    Raises:
        ValueError: There is none with this dotted name, or it is written in C and has no signature.
    """
    found = located(target)
    if isinstance(found, type) and found.__init__.__module__.startswith("lightning."):  # type: ignore[misc]
        return {}  # it has no constructor of its own, and Lightning's drop any argument
    return dict(inspect.signature(found).parameters)


def takes(target: str, name: str) -> bool:
    """Whether a class or function may be called with an argument of this name."""
    found = parameters(target)
    return name in found or any(each.kind is inspect.Parameter.VAR_KEYWORD for each in found.values())


def requires(target: str, name: str) -> bool:
    """Whether it cannot be called without."""
    found = parameters(target).get(name)
    return found is not None and found.default is inspect.Parameter.empty


def _inherits(target: str, of: str) -> bool:
    found, parent = located(target), located(of)
    return isinstance(found, type) and isinstance(parent, type) and issubclass(found, parent)


def place_of(error: BaseException) -> str:
    """The innermost line of the user's own files that an error came by, as text; empty where there is none."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_file() and not any(path.is_relative_to(folder) for folder in _INSTALLED):
            return f" ({path.name}, line {frame.lineno}, in {frame.name})"
    return ""
