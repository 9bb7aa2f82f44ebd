"""SLURM's signal to requeue a job, held back until a checkpoint is one to go on from.

Lightning writes a checkpoint as soon as the signal comes, in the middle of a step too, where the network has seen half
of it and the second one nothing yet.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

import lightning as L
from lightning.fabric.plugins.environments import SLURMEnvironment

from law_lightning._compat import cluster_environment


class RequeueSignal:
    """Stands before Lightning's handler of the signal, if the Trainer has one, until :meth:`detach`.

    Args:
        trainer: the Trainer, in the course of a fit. The signal is held back from now on.

    Attributes:
        pending: it has come.
    """

    def __init__(self, trainer: L.Trainer) -> None:
        self._held, self.pending = True, False
        self._signal: int | None = None
        self._handler: Any = None
        environment = cluster_environment(trainer)
        if not isinstance(environment, SLURMEnvironment) or not environment.auto_requeue:
            return
        number = environment.requeue_signal or signal.SIGUSR1
        handler = signal.getsignal(number)
        if callable(handler) and threading.current_thread() is threading.main_thread():
            self._signal, self._handler = number, handler
            signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._held:
            self.pending = True
        else:
            self._handler(number, frame)

    def agree(self, trainer: L.Trainer) -> bool:
        """Whether it has come, to any of the processes: a checkpoint is written by all together, at the same step."""
        if self._signal is not None and trainer.world_size > 1:
            self.pending = bool(trainer.strategy.reduce_boolean_decision(self.pending, all=False))
        return self.pending

    def hold(self) -> None:
        """Keep the signal for later."""
        self._held = True

    def release(self) -> None:
        """Let the signal through, also one that came before."""
        self._held = False
        self.deliver()

    def deliver(self) -> None:
        """Let a signal through that came before."""
        if self.pending:
            self.pending = False
            self._handler(self._signal, None)

    def detach(self) -> None:
        """Put Lightning's handler back. Where something else has come before this one, pass the signal on."""
        self._held = self.pending = False
        if self._signal is not None and signal.getsignal(self._signal) == self._receive:
            signal.signal(self._signal, self._handler)
            self._signal = self._handler = None

    def __getstate__(self) -> dict[str, Any]:
        """A copy, in another process say, has no signal to wait for."""
        return {"_held": False, "pending": False, "_signal": None, "_handler": None}
