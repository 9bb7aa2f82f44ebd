"""Warm-ups that are kept: until it ends, an episode depends on its seed alone, so another one may begin there.

A warm-up is kept as a checkpoint of Lightning's in a file named after its own content. Whether a training that begins
there is the one that would have come to this point is checked twice: by the kept reference, which knows what it was
forked from (see :mod:`law_lightning.trace`), and here for what a module remembers outside its checkpoints.
"""

from __future__ import annotations

import hashlib
import io
import tempfile
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import nn

from law_lightning.callbacks import LAWCallback
from law_lightning.files import write_whole
from law_lightning.trace import TraceMismatchError, digest


class Warmups:
    """The files of an experiment's warm-ups, by the seeds of their episodes.

    Args:
        folder: where they are kept; None takes a temporary one, which goes with this object.
    """

    def __init__(self, folder: Path | None) -> None:
        if folder is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="law-warmups-")
            folder = Path(self._temporary.name)
        self.folder = folder
        self.trusted = True
        self._checked: set[Path] = set()

    def find(self, seed: int) -> Path | None:
        """The checkpoint in which a seed's warm-up ended, if it was kept.

        Raises:
            ValueError: the file is damaged.
        """
        for path in sorted(self.folder.glob(f"{seed}-*.ckpt")) if self.trusted else ():
            if path not in self._checked and path.stem != f"{seed}-{_hash(path.read_bytes())}":
                raise ValueError(f"{path}, a kept warm-up, is damaged: delete it.")
            self._checked.add(path)
            return path
        return None

    def keep(self, seed: int, content: bytes) -> None:
        """Keep the checkpoint in which a seed's warm-up ended."""
        write_whole(self.folder / f"{seed}-{_hash(content)}.ckpt", content)


class KeepWarmup(L.Callback):
    """Writes a checkpoint when the warm-up ends; where a fit was resumed from one, checks that nothing was lost.

    Args:
        warmups: where it is kept.
        seed: of the episode.
        law: the episode's callback, which comes before this one.
    """

    def __init__(self, warmups: Warmups, seed: int, law: LAWCallback) -> None:
        self.path = warmups.find(seed)
        self._warmups, self._seed, self._law = warmups, seed, law
        self._due = self.path is None and warmups.trusted and law.warmup_stages > 0
        self._remembered: str | None = None
        self._expected: str | None = None

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Compare what the module remembers with what it remembered at this point."""
        if self._expected is not None and self._expected != _remembered(pl_module):
            raise TraceMismatchError(
                f"{type(pl_module).__name__} remembers something that is not in its checkpoints, so that training "
                "cannot go on from one as if it had not been stopped."
            )
        self._expected = None

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep a checkpoint if the warm-up has just ended."""
        if not self._due or self._law.in_warmup:
            return
        self._due, self._remembered = False, _remembered(pl_module)
        if trainer.world_size > 1:  # all processes would have to find it or none
            return
        content = io.BytesIO()
        torch.save(trainer._checkpoint_connector.dump_checkpoint(weights_only=False), content)
        if _is_plain(content):
            self._warmups.keep(self._seed, content.getvalue())

    def state_dict(self) -> dict[str, Any]:
        """What the module remembers."""
        return {"remembered": self._remembered}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """What the module remembered."""
        self._expected = state_dict["remembered"]


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


def _is_plain(checkpoint: io.BytesIO) -> bool:
    """Whether a checkpoint can be read without executing anything in it: hyper-parameters may be any object."""
    try:
        checkpoint.seek(0)
        torch.load(checkpoint, map_location="cpu", weights_only=True)
    except Exception:  # whatever the unpickler raises
        return False
    return True


def _remembered(module: nn.Module) -> str:
    """A digest of the numbers and text that a module and its parts keep as attributes; those of base classes aside."""
    own = [
        {name: value for name, value in vars(part).items() if name not in _OF_LIGHTNING and _is_memory(value)}
        for part in module.modules()
    ]
    return digest(own)


def _is_memory(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_memory, value))
    if isinstance(value, dict):
        return all(map(_is_memory, value)) and all(map(_is_memory, value.values()))
    return isinstance(value, (bool, int, float, str, type(None)))


_OF_LIGHTNING = frozenset(vars(L.LightningModule()))
