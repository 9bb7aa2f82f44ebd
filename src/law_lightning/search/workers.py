"""The workers of a search (N_a): processes that run episodes side by side and share what the agent learns from.

Their process group is private: PyTorch's default group would make torchmetrics and the like mix up the networks of
different episodes.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments import ClusterEnvironment, SLURMEnvironment, TorchElasticEnvironment
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

#: Shows an event, by name, with its content: ``text`` beside the bar, or an ``episode`` that ended.
Report = Callable[[str, Any], None]

# Workers wait for one another at every stage end, for as long as a stage takes. A dead one is noticed at once.
_TIMEOUT = timedelta(days=1)


class WorkerLostError(RuntimeError):
    """Another worker of the search is gone."""


class Workers:
    """The group of workers as one of them sees it; by itself, a group of one.

    Attributes:
        rank: of this worker, from 0.
        size: N_a.
    """

    rank = 0
    size = 1

    def gather(self, mine: Any) -> list[Any]:
        """What each worker has, by rank: tensors and plain Python."""
        return [mine]


class GlooWorkers(Workers):
    """Workers in processes of their own, over gloo, which find each other through ``store``."""

    def __init__(self, store: Any, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self._group: Any = dist.ProcessGroupGloo(store, rank, size, _TIMEOUT)

    def close(self) -> None:
        """End gloo's threads: a thread that still runs when Python exits aborts the process."""
        self._group = None

    def gather(self, mine: Any) -> list[Any]:
        """See :class:`Workers`.

        Raises:
            WorkerLostError: another worker is gone.
        """
        content = torch.frombuffer(bytearray(packed(mine)), dtype=torch.uint8)
        lengths = [int(length) for length in self._gather_tensors(torch.tensor([len(content)]))]
        padded = torch.zeros(max(lengths), dtype=torch.uint8)  # gloo gathers equal lengths only
        padded[: len(content)] = content
        contents = self._gather_tensors(padded)
        return [unpacked(bytes(each[:length].numpy())) for each, length in zip(contents, lengths, strict=True)]

    def _gather_tensors(self, mine: Tensor) -> list[Tensor]:
        everyones = [torch.empty_like(mine) for _ in range(self.size)]
        try:
            self._group.allgather([everyones], [mine]).wait()
        except RuntimeError as error:  # gloo has no error type of its own
            raise WorkerLostError(
                f"Worker {self.rank} of {self.size} lost another worker of the search: it died or its machine cannot "
                f"be reached ({str(error).strip().splitlines()[0]})."
            ) from error
        return everyones


def packed(content: Any) -> bytes:
    """Tensors and plain Python as bytes."""
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def unpacked(content: bytes) -> Any:
    """What :func:`packed` packed; nothing in it is executed."""
    return torch.load(io.BytesIO(content), weights_only=True)


def launched_outside() -> ClusterEnvironment | None:
    """The environment of torchrun or SLURM where one of them started several processes for this program."""
    for kind in (TorchElasticEnvironment, SLURMEnvironment):
        if kind.detect() and (environment := kind()).world_size() > 1:
            return environment
    return None


def check_workers(workers: int) -> None:
    """Check a number of workers against what torchrun or SLURM started.

    Raises:
        ValueError: it is below 1.
        MisconfigurationException: there are other numbers of processes and workers.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, not {workers}.")
    outside = launched_outside()
    if outside is not None and (started := outside.world_size()) != workers:
        raise MisconfigurationException(
            f"torchrun or SLURM started {started} processes, but the search has workers={workers}: set "
            f"workers={started} (search.workers={started}), or start {workers} processes."
        )
