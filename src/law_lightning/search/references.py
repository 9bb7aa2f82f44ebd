"""The reference cache: an episode's seed fixes its warm-up and its reference, so each is trained once a seed.

It is kept under a digest of everything that a reference depends on, in memory and, given a folder, on disk.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities import CombinedLoader
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.seed import isolate_rng

import law_lightning
from law_lightning.search.episodes import MakeModule
from law_lightning.search.warmups import Warmups
from law_lightning.second_network.reference import tensors
from law_lightning.second_network.trace import ReferenceTrace, digest
from law_lightning.utilities.files import load_state, save_state

_ENDLESS = 1000  # batches that are looked at where a loader has no length
_LIBRARIES = ("torch", "lightning", "torchvision", "timm", "transformers")


class ReferenceCache:
    """Traces of references by the seeds of their episodes.

    Args:
        experiment: what a reference depends on, by name (see :func:`experiment`).
        folder: keeps them on disk too, below a folder of this experiment; None keeps them in memory.

    Attributes:
        warmups: what the episodes of a seed begin with, reference or not.
    """

    def __init__(self, experiment: Mapping[str, str], folder: Path | None) -> None:
        self._experiment = dict(experiment)
        self._folder = None if folder is None else folder / digest(self._experiment)[:16]
        self._states: dict[int, dict[str, Any]] = {}
        self.warmups = Warmups(self._folder)

    def trace(self, seed: int) -> ReferenceTrace:
        """The trace of a seed's reference; an empty one, to be filled, where there is none.

        Raises:
            MisconfigurationException: the file is of another experiment.
            ValueError: the file is damaged.
        """
        if seed not in self._states:
            path = self._path(seed)
            if path is None or not path.is_file():
                return ReferenceTrace()
            state = load_state(path, "reference")
            try:
                self._check(path, seed, state)
                ReferenceTrace.from_state(state["trace"])
            except MisconfigurationException:
                raise
            except Exception as error:  # a state that another program made up can fail in any way
                raise ValueError(
                    f"{path}, a kept reference, is damaged ({type(error).__name__}: {error}): delete it."
                ) from error
            self._states[seed] = state["trace"]
        return ReferenceTrace.from_state(self._states[seed])

    def keep(self, seed: int, state: dict[str, Any]) -> None:
        """Keep a trace's state in memory, for this process."""
        self._states[seed] = state

    def write(self, seed: int, state: dict[str, Any]) -> None:
        """Keep a trace's state on disk, if there is a folder."""
        path = self._path(seed)
        if path is not None:
            save_state(path, "reference", {"experiment": self._experiment, "seed": seed, "trace": state})

    def _path(self, seed: int) -> Path | None:
        return None if self._folder is None else self._folder / f"{seed}.pt"

    def _check(self, path: Path, seed: int, state: dict[str, Any]) -> None:
        theirs = state["experiment"] | {"seed": str(state["seed"])}
        mine = self._experiment | {"seed": str(seed)}
        other = [name for name in mine if theirs.get(name) != mine[name]]
        if other:
            raise MisconfigurationException(
                f"{path} holds a reference of another experiment (it differs in: {', '.join(other)}). Choose another "
                "cache_dir, or delete the file."
            )


def experiment(
    make_module: MakeModule,
    datamodule: L.LightningDataModule,
    trainer_kwargs: dict[str, Any],
    num_stages: int,
    warmup_stages: int,
    phase: str,
) -> dict[str, str]:
    """What a reference depends on beside its seed: data and corruption, model and optimiser, stages, versions.

    The data are read once, as one epoch from a fixed seed. The random states of the caller stay as they are.

    Args:
        make_module: makes a fresh network.
        datamodule: the data.
        trainer_kwargs: of the episodes.
        num_stages: T_max.
        warmup_stages: the stages in which there is no reference yet.
        phase: what l_smooth and acc_smooth are of, which kept warm-ups hold.

    Returns:
        A digest or a description for each part.
    """
    with isolate_rng():
        L.seed_everything(0, verbose=False)
        module = make_module()
        model = digest([make_module, list(tensors(module)), repr(module), dict(module.hparams), _sources(module)])
        datamodule.prepare_data()
        datamodule.setup("fit")
        L.seed_everything(0, verbose=False)
        data = digest([type(datamodule).__qualname__, _one_epoch(datamodule)])
    versions = {name: _version(name) for name in _LIBRARIES}
    return {
        "data": data,
        "model": model,
        "trainer": digest(trainer_kwargs),
        "stages": f"{num_stages}, of them {warmup_stages} of warm-up",
        "phase": phase,
        "versions": repr({**versions, "numpy": np.__version__, "law_lightning": law_lightning.__version__}),
        "machine": f"{_machine()}, {torch.get_num_threads()} threads",
    }


def _one_epoch(datamodule: L.LightningDataModule) -> list[str]:
    digests = []
    for loaders in (datamodule.train_dataloader(), datamodule.val_dataloader()):
        for loader in CombinedLoader(loaders, "sequential").flattened:
            length = len(loader) if hasattr(loader, "__len__") else _ENDLESS
            digests += [digest(batch) for batch in itertools.islice(loader, length)]
    return digests


def _sources(module: torch.nn.Module) -> list[str]:
    """The code of the module's own classes; library code goes by its version."""
    classes = {cls for part in module.modules() for cls in type(part).__mro__}
    own = [cls for cls in classes if cls.__module__.split(".")[0] not in (*_LIBRARIES, "builtins", "lightning_fabric")]
    sources = []
    for cls in sorted(own, key=lambda cls: (cls.__module__, cls.__qualname__)):
        try:
            sources.append(inspect.getsource(cls))
        except (OSError, TypeError):  # made in an interactive session: the digest of each fork has to do
            sources.append(cls.__qualname__)
    return sources


def _version(library: str) -> str | None:
    import sys

    return getattr(sys.modules.get(library), "__version__", None)


def _machine() -> str:
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return f"{torch.backends.cpu.get_cpu_capability()} {names}"
