"""A search in several processes: starting them, hearing from them, and what happens when one dies."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

import torch.multiprocessing
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch.multiprocessing.spawn import ProcessExitedException

from law_lightning.search.reporting import Report
from law_lightning.search.workers import WorkerLostError, Workers, launch, launched_outside, packed, unpacked

# For how long a worker that lost another one waits to be stopped, in seconds.
_LAST_WORDS_S = 60.0


def in_processes(workers: int, function: Callable[..., Any], args: tuple[Any, ...], report: Report) -> dict[str, Any]:
    """Run ``function(group, report, *args)`` in every worker.

    Args:
        workers: N_a.
        function: importable in another process; returns a dict of tensors and plain Python.
        args: its further arguments, which can be pickled.
        report: shows events, in this process.

    Returns:
        What the first worker's function returned (under torchrun and SLURM each process its own).

    Raises:
        WorkerLostError: a worker died.
        Exception: what a worker raised.
    """
    if launched_outside():
        result: dict[str, Any] = launch(workers, _run_here, function, args, report)
        return result
    context = torch.multiprocessing.get_context("spawn")
    # Not a queue: its lock would stay locked if a worker were killed while it writes.
    readers, writers = zip(*(context.Pipe(duplex=False) for _ in range(workers)), strict=True)
    before = set(multiprocessing.active_children())
    kept: dict[str, list[Any]] = defaultdict(list)
    over = threading.Event()
    relay = threading.Thread(target=_relay, args=(list(readers), report, kept, over), name="law-search relay")
    relay.daemon = True
    relay.start()
    failure: Exception | None = None
    try:
        launch(workers, _run_spawned, function, args, writers)
    except Exception as error:
        failure = error
    finally:
        for child in set(multiprocessing.active_children()) - before:
            child.kill()  # nothing is lost: checkpoints are written whole or not at all
            child.join()
        over.set()
        relay.join(timeout=10)  # a worker that was killed may have left half a message
    if kept["error"]:
        raise kept["error"][0] from failure
    if isinstance(failure, ProcessExitedException):
        how = f"by {failure.signal_name}" if failure.signal_name else f"with exit code {failure.exit_code}"
        raise WorkerLostError(
            f"Worker {failure.error_index} of the search died {how} (out of memory, perhaps). What was saved after the "
            "last round of episodes is whole: the same command goes on from there, also with another number of workers."
        ) from failure
    if failure is not None:
        raise failure
    found: dict[str, Any] = unpacked(kept["result"][0])
    return found


def _relay(pipes: list[Connection], report: Report, kept: dict[str, list[Any]], over: threading.Event) -> None:
    """Show the events that workers send, and keep results and errors, until all is over and heard."""
    while True:
        ready = wait(pipes, timeout=0.1)
        if not ready and over.is_set():
            return
        for pipe in ready:
            assert isinstance(pipe, Connection)
            try:
                event, content = pipe.recv()
            except EOFError:
                pipes.remove(pipe)
                continue
            if event in ("error", "result"):
                kept[event].append(content)
            elif not kept["error"]:
                try:
                    report(event, content)
                except Exception as error:  # a logger's; the pipes must be emptied all the same
                    kept["error"].append(error)


def _run_here(workers: Workers, function: Callable[..., Any], args: tuple[Any, ...], report: Report) -> Any:
    """A process that torchrun or SLURM started."""
    return function(workers, report, *args)


def _run_spawned(
    workers: Workers, function: Callable[..., Any], args: tuple[Any, ...], writers: Sequence[Connection]
) -> None:
    """A process of ours. Ctrl-C reaches it too, but the one the user started sees to the end of all."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, name="law-search orphan", daemon=True).start()

    def report(event: str, content: Any) -> None:
        writers[workers.rank].send((event, content))

    try:
        result = function(workers, report, *args)
    except WorkerLostError:
        # Our parent sees who died and stops us; if we ended, too, it might take us for the first.
        time.sleep(_LAST_WORDS_S)
        raise
    except SIGTERMException:  # Lightning's way out of a fit: this worker is stopped because another one died
        sys.exit(128 + signal.SIGTERM)
    except BaseException as error:
        report("error", _sendable(error, workers.rank))
        sys.exit(1)  # our parent has heard; torch would leave a file of what is raised behind
    if workers.rank == 0:
        report("result", packed(result))
    workers.gather(None)  # the first one serves the meeting place: leave together


def _die_with_parent() -> None:
    """A worker must not go on, and write checkpoints, when the process the user started was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _sendable(error: BaseException, rank: int) -> BaseException:
    error.add_note(f"In worker {rank}:\n{''.join(traceback.format_exception(error))}")
    try:
        copied = pickle.loads(pickle.dumps(error))
        if str(copied) == str(error):
            return error
    except Exception:  # an error type that cannot be rebuilt from its arguments
        pass
    return RuntimeError(f"{type(error).__name__} in worker {rank}: {error}")
