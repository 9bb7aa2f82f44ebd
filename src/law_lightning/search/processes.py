"""A search in several processes: starting them, receiving their events, and ending them when one dies."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from law_lightning.search.workers import GlooWorkers, Report, WorkerLostError, launched_outside, packed, unpacked

_HOST = "127.0.0.1"


def in_processes(workers: int, function: Callable[..., Any], args: tuple[Any, ...], report: Report) -> dict[str, Any]:
    """Run ``function(group, report, *args)`` in every worker.

    Args:
        workers: N_a. Unless torchrun or SLURM started their processes, they are spawned.
        function: importable in another process; returns a dict of tensors and plain Python.
        args: its further arguments, which can be pickled.
        report: shows events, in this process.

    Returns:
        What the first worker's function returned (under torchrun and SLURM each process its own).

    Raises:
        WorkerLostError: a worker died.
        Exception: what a worker raised.
    """
    outside = launched_outside()
    if outside is not None:
        address, rank = f"tcp://{outside.main_address}:{outside.main_port}", outside.global_rank()
        store, *_ = next(dist.rendezvous(address, rank, workers))  # type: ignore[attr-defined]
        return _in_group(store, rank, workers, function, report, args)
    context = multiprocessing.get_context("spawn")
    store = dist.TCPStore(_HOST, 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
    processes: dict[Connection, Any] = {}
    try:
        for rank in range(workers):
            # Not a queue: its lock would stay locked if a worker were killed while it writes.
            reader, writer = context.Pipe()
            process = context.Process(target=_run_spawned, args=(store.port, writer, rank, workers))
            processes[reader] = process
            process.start()
            writer.close()  # so that the pipe ends with the worker
        for reader in processes:
            # Not with the process: where it dies in the user's script, more than 64 KiB would wait for it for ever.
            with suppress(OSError):  # it has died, which is noticed below
                reader.send((function, args))
        return _relay(processes, report)
    finally:
        for reader, process in processes.items():
            if process.pid is not None:
                process.kill()  # nothing is lost: checkpoints are written whole or not at all
                process.join()
                process.close()
            reader.close()


def _relay(processes: dict[Connection, Any], report: Report) -> dict[str, Any]:
    """Show the events that workers send, until all have ended; the first result. An error of one ends the search."""
    open_pipes = list(processes)
    outcome: dict[str, Any] = {"lost": "The workers of the search ended without a result."}
    while open_pipes:
        for pipe in wait(open_pipes):
            assert isinstance(pipe, Connection)
            try:
                event, content = pipe.recv()
            except (EOFError, OSError):  # it has ended, or was killed within a message
                open_pipes.remove(pipe)
                processes[pipe].join()
                if code := processes[pipe].exitcode:
                    how = f"by {signal.Signals(-code).name} (out of memory, perhaps)" if code < 0 else _ended(code)
                    raise WorkerLostError(
                        f"Worker {list(processes).index(pipe)} of the search died {how}. What was saved after the last "
                        "round of episodes is whole: the same command goes on from there, also with another number of "
                        "workers."
                    ) from None
                continue
            if event == "error":
                raise content
            if event in ("result", "lost"):
                outcome[event] = content
            else:
                report(event, content)
    if "result" not in outcome:
        raise WorkerLostError(outcome["lost"])
    found: dict[str, Any] = unpacked(outcome["result"])
    return found


def _ended(code: int) -> str:
    return (
        f"with exit code {code} (its error is above; the script that starts a search must do so under "
        "if __name__ == '__main__')"
    )


def _run_spawned(port: int, writer: Connection, rank: int, workers: int) -> None:
    """The main function of a worker. Ctrl-C reaches it too, but the process that the user started ends all workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, name="law-search orphan", daemon=True).start()
    rank_zero_only.rank = rank  # type: ignore[attr-defined]
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // workers))

    def report(event: str, content: Any) -> None:
        writer.send((event, content))

    try:
        function, args = writer.recv()
        store = dist.TCPStore(_HOST, port, is_master=False)  # type: ignore[attr-defined]
        result = _in_group(store, rank, workers, function, report, args)
        if rank == 0:
            report("result", packed(result))
    except WorkerLostError as error:  # the parent process sees which one died
        report("lost", str(error))
    except Exception as error:
        report("error", _sendable(error, rank))


def _in_group(
    store: Any, rank: int, workers: int, function: Callable[..., Any], report: Report, args: tuple[Any, ...]
) -> dict[str, Any]:
    group = GlooWorkers(store, rank, workers)
    try:
        found: dict[str, Any] = function(group, report, *args)
        group.gather(None)  # the first worker may host the store: all leave together
        return found
    finally:
        group.close()


def _die_with_parent() -> None:
    """End a worker, which must write no more checkpoints, when the process that the user started was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _sendable(error: Exception, rank: int) -> Exception:
    error.add_note(f"In worker {rank}:\n{''.join(traceback.format_exception(error))}")
    try:
        copied = pickle.loads(pickle.dumps(error))
        if str(copied) == str(error):
            return error
    except Exception:  # an error type that cannot be rebuilt from its arguments
        pass
    return RuntimeError(f"{type(error).__name__} in worker {rank}: {error}")
