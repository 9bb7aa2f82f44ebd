"""What the processes of a Trainer tell each other."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist


def gathered_from_processes(mine: dict[str, Any]) -> list[dict[str, Any]]:
    """What each process gives, by rank, in all of them; a collective operation."""
    if not (dist.is_available() and dist.is_initialized()):
        return [mine]
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, mine)
    return gathered
