"""A resumed run sees its data in the order of the uninterrupted one.

Lightning restores neither the global random states nor the position within an epoch. This puts both back.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import lightning as L
import torch.distributed as dist

from law_lightning._compat import combined_loader, data_fetcher, forget_workers, set_sampler_epoch, validate_anew
from law_lightning.utilities.randomness import (
    portable,
    portable_states,
    random_states,
    set_portable_states,
    set_random_states,
)


def of_every_process(mine: dict[str, Any]) -> list[dict[str, Any]]:
    """What each process has, in the order of their ranks; all must ask. A checkpoint is written by the first alone."""
    if not (dist.is_available() and dist.is_initialized()):
        return [mine]
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, mine)
    return gathered


class DataOrder:
    """Remembers the random states an epoch's data order was drawn from."""

    def __init__(self) -> None:
        self._epoch_start: dict[str, Any] = random_states()
        self._before_batch: dict[str, Any] | None = None
        self._resumed_at: dict[str, Any] | None = None
        self._validation_start: dict[str, Any] | None = None
        self._resumed_in: dict[str, Any] | None = None
        self._iterator_made = False
        self.validated = False  # since the last batch

    def note_batch(self, wanted: bool) -> None:
        """Called when a step has ended, before the next batch is drawn.

        Args:
            wanted: a checkpoint is to be written after that.
        """
        self._before_batch = random_states() if wanted else None

    def begin_batch(self) -> None:
        """Called at the beginning of every batch: where a resumed one was drawn before, the Trainer has gone astray."""
        self.validated = False
        self._resumed_in = None  # a validation that the Trainer has not done anew: its time may not have come yet
        if self._resumed_at is not None:
            set_portable_states(self._resumed_at)
            self._resumed_at = None

    @property
    def knows_batch(self) -> bool:
        """Whether the random states are known from which the batch at hand was drawn."""
        return self._before_batch is not None

    def note_epoch(self, trainer: L.Trainer) -> None:
        """Called when an epoch starts, just before the Trainer draws its order."""
        self._epoch_start = random_states()
        self._iterator_made = False

    def note_tuned_epoch(self) -> None:
        """Called when the first epoch starts after a tuner, which has made the iterator; its order is yet to be drawn.

        A loader with worker processes draws the order with the iterator: then no one knows from which states.
        """
        self._epoch_start = random_states()
        self._iterator_made = True

    def begin_validation(self) -> None:
        """Called when a validation starts; one that was stopped in the course of it starts from where it did then."""
        if self._resumed_in is not None:
            set_portable_states(self._resumed_in)
            self._resumed_in = None
        self._validation_start = random_states()

    def end_validation(self) -> None:
        """Called when it has ended."""
        self._validation_start, self.validated = None, True
        if self.knows_batch:  # the next one is drawn after this
            self.note_batch(True)

    def state_dict(self) -> dict[str, Any]:
        """The random states now and before what is in progress: the epoch, maybe its next batch, maybe a validation."""
        before, validation = (
            None if states is None else portable(states) for states in (self._before_batch, self._validation_start)
        )
        states = {"now": portable_states(), "epoch_start": portable(self._epoch_start), "before_batch": before}
        return states | {"validation_start": validation, "iterator_made": self._iterator_made}

    def restore(self, trainer: L.Trainer, state: dict[str, Any]) -> None:
        """Put the random states back and draw the order of the current epoch again, past what was seen of it.

        Called when a resumed fit begins: the Trainer has made its iterator already, from other random states.
        """
        fit_loop = trainer.fit_loop
        self._resumed_in = state.get("validation_start")
        if self._resumed_in is not None:
            _validate_anew(fit_loop.epoch_loop.val_loop)
        fetcher = data_fetcher(trainer)
        progress = fit_loop.epoch_loop.batch_progress.current
        seen: int = progress.processed  # type: ignore[attr-defined]
        begun = progress.ready > seen  # a batch that was drawn and not trained on: its step begins anew
        within = (begun or seen > 0) and seen < fit_loop.max_batches
        set_portable_states(state["epoch_start" if within else "now"])
        self._epoch_start = random_states()
        self._iterator_made = within and state.get("iterator_made", False)
        loaders = combined_loader(trainer)
        if fetcher is None or loaders is None:
            return
        epoch: int = fit_loop.epoch_progress.current.processed  # type: ignore[attr-defined]
        for loader in loaders.flattened:  # a DistributedSampler draws from its epoch's number
            set_sampler_epoch(loader, epoch)
            if epoch == 0 and getattr(loader, "persistent_workers", False):
                forget_workers(loader)  # in the first epoch it is made, which draws a seed for the workers
        if not within and fetcher.length is not None:
            fetcher.reset()
            fetcher.iterator = self._made_later(fetcher.combined_loader)
            return
        iter(fetcher)
        if self._iterator_made:
            set_random_states(self._epoch_start)
        if not within:
            return
        for _ in range(seen):
            next(fetcher)
        fetcher.fetched -= seen  # the Trainer adds them when it goes on
        if begun and fetcher.iterator is not None and not getattr(fetcher, "batches", []):
            if seen > 0 and state.get("before_batch") is not None:
                set_portable_states(state["before_batch"])
            fetcher.iterator = _drawn_from(random_states(), fetcher.iterator)
            self._resumed_at = state["now"]
        set_portable_states(state["now"])

    def _made_later(self, loader: Any) -> Iterator[Any]:
        """The batches of the next epoch, whose order is drawn with the first of them: validation may come before it."""
        self._epoch_start = random_states()
        yield from loader


def _validate_anew(loop: Any) -> None:
    """Have the Trainer run a validation again that was stopped in the course of it.

    By itself it would do so only within a batch, and stop as many batches before the end as there were; between two
    batches it would leave out what was to come, and all that follows its metrics.
    """
    progress = loop.batch_progress
    for name, seen in vars(progress.current).items():
        setattr(progress.total, name, getattr(progress.total, name) - seen)
    progress.current.reset()
    validate_anew(loop)


def _drawn_from(states: dict[str, Any], batches: Iterator[Any]) -> Iterator[Any]:
    """Further batches, the first of which is drawn from these states, wherever the Trainer has gone meanwhile."""
    set_random_states(states)
    while True:  # iter(batches) would begin the loaders anew
        try:
            yield next(batches)
        except StopIteration:
            return
