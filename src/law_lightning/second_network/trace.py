"""What a reference network gave in one training, kept so that it need not be trained again.

The reference ignores the strategy: with the same seeds it takes the same steps. A trace knows by the digest of what the
reference was forked from whether it belongs to a training.
"""

from __future__ import annotations

import hashlib
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

from law_lightning.second_network.reference import StepRecord, StepResult, tensors


@dataclass
class ReferenceTrace:
    """The course of a reference; an empty one is filled by the fit it is given to, a full one spares the training.

    Attributes:
        fork: digest of network, optimizer, schedulers, random states and next batch at the end of the warm-up.
        losses: the mean loss of each of its steps, scalars; None for a step that revealed none.
        accuracies: its validation accuracy at each stage end after the warm-up, by stage.
        remembered: digest of what module and callbacks kept as attributes when it was forked; of a search alone.
        complete: whether it holds a whole training.
    """

    fork: str | None = None
    losses: list[Tensor | None] = field(default_factory=list)
    accuracies: dict[int, float] = field(default_factory=dict)
    remembered: str | None = None
    complete: bool = False

    def begin(self, fork: str) -> None:
        """Start to record a training.

        Args:
            fork: digest of what the reference begins with.
        """
        self.fork, self.losses, self.accuracies, self.complete = fork, [], {}, False

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain Python."""
        revealed = torch.tensor([loss is not None for loss in self.losses], dtype=torch.bool)
        losses = [loss for loss in self.losses if loss is not None]
        return {
            "fork": self.fork,
            "revealed": revealed,
            "losses": torch.stack(losses).cpu() if losses else torch.empty(0),
            "accuracies": dict(self.accuracies),
            "remembered": self.remembered,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> ReferenceTrace:
        """A complete trace, as :meth:`state_dict` wrote it.

        Raises:
            ValueError: the losses or the accuracies are not what a training gives.
        """
        revealed, losses = state["revealed"], state["losses"]
        if revealed.dtype != torch.bool or revealed.ndim != 1 or losses.shape != (int(revealed.sum()),):
            raise ValueError("its losses are not those of its steps")
        if not isinstance(state["fork"], str) or not losses.is_floating_point():
            raise ValueError("it does not say what it was forked from, or its losses are no numbers")
        if not all(isinstance(stage, int) and 0 <= value <= 1 for stage, value in state["accuracies"].items()):
            raise ValueError("its accuracies are not in [0, 1]")
        each = iter(losses)
        steps = [next(each) if here else None for here in revealed.tolist()]
        return cls(state["fork"], steps, dict(state["accuracies"]), state.get("remembered"), complete=True)


_TOO_SHORT = "The kept reference holds less than a whole training, so it is damaged: delete the kept references."


class TraceMismatchError(MisconfigurationException):
    """A kept reference is of another training than the one it was to stand in for."""


class TracedReference:
    """Stands in for a :class:`law_lightning.second_network.reference.Reference` that has been trained before.

    Args:
        trace: its course.
        fork: digest of what the reference would begin with now.

    Raises:
        TraceMismatchError: the trace is of another training.
    """

    module = None

    def __init__(self, trace: ReferenceTrace, fork: str) -> None:
        if trace.fork != fork:
            raise TraceMismatchError(
                "The kept reference is of another training: at the end of the warm-up its network, optimizer, random "
                "states or next batch were others. Something that the settings do not show has changed (the module's "
                "code, say), or training is not deterministic here (on a GPU, set the Trainer's deterministic=True). "
                "Delete the kept references, or search without them (seed_pool=0)."
            )
        self._trace = trace
        self._step = 0

    def begin_step(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> StepRecord:
        """Nothing of a step is needed."""
        return StepRecord((), {}, {})

    def step(self, record: StepRecord, batch_idx: int) -> StepResult:
        """The loss of the next step."""
        if self._step == len(self._trace.losses):
            raise MisconfigurationException(_TOO_SHORT)
        loss = self._trace.losses[self._step]
        self._step += 1
        return StepResult(loss=loss)

    def accuracy(self, stage: int) -> float:
        """At the end of a stage."""
        if stage not in self._trace.accuracies:
            raise MisconfigurationException(_TOO_SHORT)
        return self._trace.accuracies[stage]

    def before_validation(self) -> None:
        """No copy of the module is there that has buffers."""

    def hook(self, name: str, *args: Any) -> None:
        """No copy of the module is there to run its hooks on."""

    def state_dict(self) -> None:
        """A fit with a kept reference is not resumed, but repeated."""


def fork_digest(trainer: L.Trainer, module: L.LightningModule, batch: Any, random: dict[str, Any]) -> str:
    """A digest of all that the rest of a plain training depends on; of its data, the batch at hand.

    Args:
        trainer: the Trainer, in the course of a fit.
        module: the module.
        batch: the next that the module is trained on; None after the last.
        random: the global random states (see :func:`law_lightning.utilities.randomness.random_states`).
    """
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    state = {
        "steps": (trainer.global_step, trainer.estimated_stepping_batches),
        "tensors": list(tensors(module)),
        "optimizers": [(type(each).__qualname__, each.state_dict()) for each in trainer.optimizers],
        "schedulers": [
            (type(config.scheduler).__qualname__, config.interval, config.frequency, config.scheduler.state_dict())
            for config in trainer.lr_scheduler_configs
        ],
        "scaler": None if scaler is None else scaler.state_dict(),
        "random": random,
        "batch": batch,
    }
    return digest(state)


def digest(value: Any) -> str:
    """A digest of nested containers, tensors, arrays, functions and objects, the same in every process."""
    hashed = hashlib.sha256()
    for part in _parts(value, ()):
        hashed.update(part)
    return hashed.hexdigest()


def _parts(value: Any, inside: tuple[int, ...]) -> Iterator[bytes]:
    if isinstance(value, (str, bytes, int, float, complex, type(None), torch.dtype, torch.device)):
        yield repr(value).encode() + b"\0"
    elif isinstance(value, Tensor):
        data = value.detach().cpu().contiguous()
        yield f"{data.dtype}{tuple(data.shape)}".encode()
        yield data.flatten().view(torch.uint8).numpy().tobytes() if data.numel() else b""
    elif hasattr(value, "tobytes") and hasattr(value, "dtype"):  # NumPy's arrays and numbers
        yield f"{value.dtype}{value.shape}".encode()
        yield value.tobytes()
    elif id(value) not in inside:  # what holds itself is cut off there
        yield type(value).__qualname__.encode()
        for part in _contents(value):
            yield from _parts(part, (*inside, id(value)))


def _contents(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        yield from (part for item in value.items() for part in item)
    elif isinstance(value, (set, frozenset)):
        yield from sorted(value, key=repr)
    elif isinstance(value, Iterable) and not isinstance(value, (Iterator, type)):
        yield from value
    elif isinstance(value, partial):
        yield from (value.func, value.args, value.keywords)
    elif isinstance(value, types.FunctionType):
        code = value.__code__
        constants = [constant for constant in code.co_consts if not isinstance(constant, types.CodeType)]
        yield from (value.__qualname__, code.co_code, code.co_names, constants, value.__defaults__)
        yield from (cell.cell_contents for cell in value.__closure__ or ())
    elif isinstance(value, types.MethodType):
        yield from (value.__qualname__, value.__self__)
    elif isinstance(value, type) or callable(value):
        yield from (getattr(value, "__module__", None), getattr(value, "__qualname__", type(value).__qualname__))
    else:
        yield getattr(value, "__dict__", None)
