"""Warm-ups that are kept: until it ends, an episode depends on its seed alone, so another one may begin there.

A warm-up is kept as a checkpoint of Lightning's, in a file named after its own content. That a training which begins
there is the one that would have come to this point is checked when its first weighted step begins: by the kept
reference, which knows what it was forked from (see :mod:`law_lightning.second_network.trace`), and here for what a
module or a callback remembers outside its checkpoints.
"""

from __future__ import annotations

import hashlib
import io
import tempfile
from collections import deque
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from law_lightning._compat import checkpoint_of
from law_lightning.callbacks import LAWCallback
from law_lightning.second_network.trace import TraceMismatchError, digest
from law_lightning.utilities.files import write_whole


class Warmups:
    """The files of an experiment's warm-ups, by the seeds of their episodes.

    Args:
        folder: where they are kept; None takes a temporary one.

    Attributes:
        trusted: False once it has been found that this training cannot be resumed as if it had not been stopped.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self.trusted = True
        self._checked: set[Path] = set()

    def distrust(self, why: str) -> None:
        """Keep and use none any more."""
        if self.trusted:
            rank_zero_info(f"Every episode trains its warm-up, as an earlier one's cannot be gone on from: {why}")
        self.trusted = False

    def find(self, name: str) -> Path | None:
        """The checkpoint in which a warm-up ended, if it was kept.

        Raises:
            ValueError: the file is damaged.
        """
        if self._folder is None or not self.trusted:
            return None
        path = next(iter(sorted(self._folder.glob(f"{name}-*.ckpt"))), None)
        if path is not None and path not in self._checked:
            content = path.read_bytes()
            # A file's name is easily made up to go with what is in it.
            if path.stem != f"{name}-{_hash(content)}" or not _is_plain(io.BytesIO(content)):
                raise ValueError(f"{path}, a kept warm-up, is damaged: delete it.")
            self._checked.add(path)
        return path

    def keep(self, name: str, content: bytes) -> None:
        """Keep the checkpoint in which a warm-up ended, in place of what there was."""
        if self._folder is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="law-warmups-")
            self._folder = Path(self._temporary.name)
        path = self._folder / f"{name}-{_hash(content)}.ckpt"
        write_whole(path, content)
        for other in self._folder.glob(f"{name}-*.ckpt"):
            if other != path:
                other.unlink(missing_ok=True)

    def close(self) -> None:
        """Delete the temporary folder, if there is one."""
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary = self._folder = None


class KeepWarmup(L.Callback):
    """Keeps the warm-up of an episode, or knows where to resume one and checks that nothing was lost.

    Args:
        warmups: where it is kept.
        seed: of the episode.
        law: the episode's callback, with a trace. Only a complete one can check a training that is resumed.

    Attributes:
        path: the checkpoint to begin with; None begins anew.
    """

    def __init__(self, warmups: Warmups, seed: int, law: LAWCallback) -> None:
        assert law.trace is not None
        self._warmups, self._law, self._trace = warmups, law, law.trace
        # A checkpoint holds what the callback has seen of the samples, too.
        settings = digest([law.agent.features, law.smoothing, law.analyse_labels, law.warmup_stages])
        self._name = f"{seed}-{settings[:8]}"
        self.path = warmups.find(self._name) if self._trace.complete else None
        self._due = self.path is None and warmups.trusted and law.warmup_stages > 0
        self._forked = False
        self._content: bytes | None = None

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """At the first weighted step, compare what is remembered with what was remembered there."""
        if self._forked or self._law.in_warmup:
            return
        self._forked = True
        remembered = digest([_memory(pl_module), [_attributes(each) for each in _of_the_user(trainer)]])
        if not self._trace.complete:
            self._trace.remembered = remembered
        elif self.path is not None and remembered != self._trace.remembered:
            raise TraceMismatchError(f"{type(pl_module).__name__} or a callback had other attributes in a resumed fit.")

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Make a checkpoint if the warm-up has just ended."""
        if not self._due or self._law.in_warmup:
            return
        self._due = False
        if trainer.world_size > 1:  # all processes would have to find it or none
            return
        content = io.BytesIO()
        torch.save(checkpoint_of(trainer), content)
        if _is_plain(content):
            self._content = content.getvalue()
        else:
            self._warmups.distrust("the module's checkpoints hold more than tensors and plain Python.")

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep it, if there is a whole reference now that can check who begins there."""
        if self._content is not None and self._trace.complete:
            self._warmups.keep(self._name, self._content)


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


def _memory(module: torch.nn.Module) -> list[dict[str, Any]]:
    """What a module and its parts keep as attributes; parameters, buffers and Lightning's own aside."""
    return [_attributes(part) for part in module.modules()]


def _of_the_user(trainer: L.Trainer) -> list[L.Callback]:
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return [each for each in callbacks if type(each).__module__.split(".")[0] not in ("lightning", "law_lightning")]


def _attributes(thing: object) -> dict[str, Any]:
    """The attributes that are numbers, text, tensors, arrays, or containers of these."""
    return {name: value for name, value in vars(thing).items() if name not in _OF_LIGHTNING and _is_memory(value)}


def _is_memory(value: Any) -> bool:
    if isinstance(value, (list, tuple, set, frozenset, deque)):
        return all(map(_is_memory, value))
    if isinstance(value, dict):
        return all(map(_is_memory, value)) and all(map(_is_memory, value.values()))
    return isinstance(value, (bool, int, float, complex, str, bytes, type(None), torch.Tensor, np.ndarray, np.generic))


_OF_LIGHTNING = frozenset(vars(L.LightningModule()))
