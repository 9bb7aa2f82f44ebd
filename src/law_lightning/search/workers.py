"""The workers of a search (N_a): processes that run episodes side by side and share what the agent learns from.

Lightning Fabric starts them, or torchrun or SLURM did. Their process group is private: PyTorch's default group would
make torchmetrics and the like mix up the networks of different episodes.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments import LightningEnvironment, SLURMEnvironment, TorchElasticEnvironment
from lightning.fabric.strategies import DDPStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

# Workers wait for one another at every stage end, so for as long as a stage may take. A dead one is noticed at once.
_PATIENCE = timedelta(days=1)


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

    def share(self, mine: Tensor) -> list[Tensor]:
        """The tensor of each worker, by rank; all have the same shape and type."""
        return [mine]

    def gather(self, mine: Any) -> list[Any]:
        """What each worker has, by rank: tensors and plain Python."""
        return [mine]


class GlooWorkers(Workers):
    """Workers in processes of their own, over gloo.

    Args:
        store: where they meet.
        rank: of this worker.
        size: N_a.
    """

    def __init__(self, store: Any, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self._store = store  # the first worker's process serves it
        self._group: Any = dist.ProcessGroupGloo(store, rank, size, _PATIENCE)

    def leave(self) -> None:
        """End gloo's threads: one that Python's exit finds running aborts the process."""
        self._group = self._store = None

    def share(self, mine: Tensor) -> list[Tensor]:
        """See :class:`Workers`."""
        everyones = [torch.empty_like(mine) for _ in range(self.size)]
        try:
            self._group.allgather([everyones], [mine]).wait()
        except RuntimeError as error:  # gloo has no error type of its own
            raise WorkerLostError(
                f"Worker {self.rank} of {self.size} lost another worker of the search: it died or its machine cannot "
                f"be reached ({str(error).strip().splitlines()[0]})."
            ) from error
        return everyones

    def gather(self, mine: Any) -> list[Any]:
        """See :class:`Workers`."""
        content = torch.frombuffer(bytearray(packed(mine)), dtype=torch.uint8)
        lengths = [int(length) for length in self.share(torch.tensor([len(content)]))]
        padded = torch.zeros(max(lengths), dtype=torch.uint8)  # gloo gathers equal lengths only
        padded[: len(content)] = content
        contents = self.share(padded)
        return [unpacked(bytes(each[:length].numpy())) for each, length in zip(contents, lengths, strict=True)]


def packed(content: Any) -> bytes:
    """Tensors and plain Python as bytes."""
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def unpacked(content: bytes) -> Any:
    """What :func:`packed` packed; nothing in it is executed."""
    return torch.load(io.BytesIO(content), weights_only=True)


def launched_outside() -> int:
    """How many processes torchrun or SLURM started for this program; 0 if neither did."""
    for environment in (TorchElasticEnvironment, SLURMEnvironment):
        if environment.detect() and environment().world_size() > 1:
            return environment().world_size()
    return 0


def check_workers(workers: int) -> None:
    """Check a number of workers against what torchrun or SLURM started.

    Raises:
        ValueError: it is below 1.
        MisconfigurationException: there are other numbers of processes and workers.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, not {workers}.")
    outside = launched_outside()
    if outside and outside != workers:
        raise MisconfigurationException(
            f"torchrun or SLURM started {outside} processes, but the search has workers={workers}: set "
            f"workers={outside} (search.workers={outside}), or start {workers} processes."
        )


def launch(workers: int, function: Callable[..., Any], *args: Any) -> Any:
    """Run ``function(group, *args)`` in every worker.

    Args:
        workers: N_a. Unless torchrun or SLURM started them, they are spawned.
        function: must be importable in another process, like its arguments.
        args: its further arguments.

    Returns:
        What the first worker's function returned (under torchrun and SLURM each process its own).
    """
    if launched_outside():
        torchrun = TorchElasticEnvironment.detect()
        nodes = workers // int(os.environ["LOCAL_WORLD_SIZE"]) if torchrun else int(os.environ.get("SLURM_NNODES", 1))
        strategy = DDPStrategy(process_group_backend="gloo")
        fabric = L.Fabric(accelerator="cpu", devices=workers // nodes, num_nodes=nodes, strategy=strategy)
    else:
        strategy = DDPStrategy(process_group_backend="gloo", start_method="spawn")
        fabric = L.Fabric(accelerator="cpu", devices=workers, strategy=strategy, plugins=[LightningEnvironment()])
    with _addresses_kept():
        return fabric.launch(partial(_in_worker, function=function, args=args))


@contextmanager
def _addresses_kept() -> Iterator[None]:
    """Lightning leaves the port of this launch in the environment, where other programs would take it for theirs."""
    names = ("MASTER_ADDR", "MASTER_PORT")
    before = {name: os.environ.get(name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _in_worker(fabric: L.Fabric, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    group = _private_group(fabric.global_rank, fabric.world_size)
    try:
        return function(group, *args)
    finally:
        group.leave()


def _private_group(rank: int, size: int) -> GlooWorkers:
    """Meet over Fabric's process group, then leave it for one that the episodes' Trainers do not see."""
    meeting: list[Any] = [None]
    if rank == 0:
        store = dist.TCPStore(  # type: ignore[attr-defined]
            os.environ["MASTER_ADDR"], 0, size, is_master=True, wait_for_workers=False
        )
        meeting = [store.port]
    dist.broadcast_object_list(meeting, src=0)
    if rank > 0:
        store = dist.TCPStore(  # type: ignore[attr-defined]
            os.environ["MASTER_ADDR"], meeting[0], size, is_master=False
        )
    dist.barrier()
    dist.destroy_process_group()
    return GlooWorkers(store, rank, size)
