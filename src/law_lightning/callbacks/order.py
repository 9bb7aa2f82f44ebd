"""A resumed run sees its data in the order of the uninterrupted one.

Lightning restores neither the global random states nor the position within an epoch. This puts both back.
"""

from __future__ import annotations

from typing import Any

import lightning as L
import torch.distributed as dist
from lightning.fabric.utilities.data import _set_sampler_epoch

from law_lightning.randomness import portable, portable_states, random_states, set_portable_states, set_random_states


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
        self._drawn_at: int | None = None
        self._iterator_made = False

    def note_epoch(self, trainer: L.Trainer) -> None:
        """Called when an epoch starts, just before the Trainer draws its order."""
        if self._drawn_at is None or self._drawn_at != trainer.fit_loop.epoch_loop.total_batch_idx:
            self._epoch_start = random_states()
        elif not (trainer.fit_loop.is_resuming or trainer.fit_loop.epoch_loop.restarting):
            set_random_states(self._epoch_start)  # drawn when the fit was resumed, the Trainer draws once more
        self._drawn_at = None
        self._iterator_made = False

    def note_tuned_epoch(self) -> None:
        """Called when the first epoch starts after a tuner, which has made the iterator; its order is yet to be drawn.

        A loader with worker processes draws the order with the iterator: then no one knows from which states.
        """
        self._epoch_start = random_states()
        self._iterator_made = True

    def state_dict(self) -> dict[str, Any]:
        """The random states now and at the epoch's start."""
        states = {"now": portable_states(), "epoch_start": portable(self._epoch_start)}
        return states | {"iterator_made": self._iterator_made}

    def restore(self, trainer: L.Trainer, state: dict[str, Any]) -> None:
        """Put the random states back and draw the order of the current epoch again, past what was seen of it.

        Called when a resumed fit begins: the Trainer has made its iterator already, from other random states.
        """
        fit_loop = trainer.fit_loop
        fetcher = fit_loop._data_fetcher
        seen: int = fit_loop.epoch_loop.batch_progress.current.processed  # type: ignore[attr-defined]
        # A batch that was begun and failed is ready, but not processed: it begins anew.
        within = 0 < seen < fit_loop.max_batches
        set_portable_states(state["epoch_start" if within else "now"])
        self._epoch_start = random_states()
        self._iterator_made = within and state.get("iterator_made", False)
        if fetcher is not None and fit_loop._combined_loader is not None:
            epoch: int = fit_loop.epoch_progress.current.processed  # type: ignore[attr-defined]
            for loader in fit_loop._combined_loader.flattened:  # a DistributedSampler draws from its epoch's number
                _set_sampler_epoch(loader, epoch)
            iter(fetcher)
            if self._iterator_made:
                set_random_states(self._epoch_start)
            if not within:
                self._drawn_at = fit_loop.epoch_loop.total_batch_idx
            else:
                for _ in range(seen):
                    next(fetcher)
                fetcher.fetched -= seen  # the Trainer adds them when it goes on
                set_portable_states(state["now"])
