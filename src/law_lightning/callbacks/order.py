"""A resumed run sees its data in the order of the uninterrupted one.

Lightning restores neither the global random states nor the position within an epoch. This puts both back.
"""

from __future__ import annotations

from typing import Any

import lightning as L
import torch.distributed as dist

from law_lightning.randomness import portable_states, set_portable_states


class DataOrder:
    """Remembers the random states an epoch's data order was drawn from."""

    def __init__(self) -> None:
        self._epoch_start: dict[str, Any] = portable_states()

    def note_epoch(self) -> None:
        """Called before the Trainer makes an epoch's iterator."""
        self._epoch_start = portable_states()

    def state_dict(self) -> list[dict[str, Any]]:
        """The random states now and at the epoch's start, of every process."""
        mine = {"now": portable_states(), "epoch_start": self._epoch_start}
        if not (dist.is_available() and dist.is_initialized()):
            return [mine]
        gathered: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(gathered, mine)
        return gathered

    def restore(self, trainer: L.Trainer, states: list[dict[str, Any]]) -> None:
        """In the middle of an epoch, draw its order again and skip what was seen; then put the random states back."""
        state = states[trainer.global_rank % len(states)]
        self._epoch_start = state["epoch_start"]
        fit_loop = trainer.fit_loop
        seen = fit_loop.epoch_loop.batch_progress.current.ready
        fetcher = fit_loop._data_fetcher
        if fetcher is not None and 0 < seen < fit_loop.max_batches:
            set_portable_states(state["epoch_start"])
            iter(fetcher)
            for _ in range(seen):
                next(fetcher)
            fetcher.fetched -= seen  # the Trainer adds them when it goes on
        set_portable_states(state["now"])
