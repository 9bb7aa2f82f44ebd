"""What a search shows while it runs: the progress bar, and metrics for a logger.

Workers in other processes send what is to be shown to the one the user started, where bar and logger are.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from typing import Any

from lightning.pytorch.loggers import Logger
from tqdm import tqdm

Report = Callable[[str, Any], None]


class _Bar(tqdm):  # type: ignore[misc]
    """Without tqdm's thread, which would outlive the search; the text that episodes set refreshes the bar."""

    monitor_interval = 0


class Reporter:
    """Shows events: ``text`` beside the bar, and an ``episode`` that ended.

    Args:
        logger: for the metrics of episodes, or None.
        bar: the progress bar, by episodes.
    """

    def __init__(self, logger: Logger | None, bar: Any) -> None:
        self._logger = logger
        self._bar = bar

    def __call__(self, event: str, content: Any) -> None:
        """Show one event."""
        if event == "text":
            self._bar.set_postfix_str(content)
        elif event == "episode":
            if self._logger is not None:
                for step, scalars in content["metrics"]:
                    self._logger.log_metrics(scalars, step=step)
                self._logger.save()
            self._bar.set_postfix_str(content["text"])
            self._bar.update()


@contextmanager
def reporting(logger: Logger | None, episodes: int, done: int, show: bool) -> Iterator[Reporter]:
    """A reporter with its bar.

    Args:
        logger: for the metrics of episodes, or None.
        episodes: of the whole search.
        done: episodes done before.
        show: whether to show the bar.
    """
    with _Bar(total=episodes, initial=done, desc="search", unit="episode", disable=not show) as bar:
        yield Reporter(logger, bar)


class Relay:
    """The user's end of the pipes through which workers send events, one pipe a worker.

    Not a queue: its lock would stay locked if a worker were killed while it writes.

    Args:
        pipes: the reading ends.
        report: shows the events that are to be shown.

    Attributes:
        kept: the contents of all other events, by name.
    """

    def __init__(self, pipes: Sequence[Connection], report: Report) -> None:
        self._pipes = list(pipes)
        self._report = report
        self.kept: dict[str, list[Any]] = {}
        self._error: BaseException | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="law-search relay", daemon=True)

    def __enter__(self) -> Relay:
        self._thread.start()
        return self

    def drain(self) -> None:
        """Wait until everything that the workers sent is shown or kept; they must have ended."""
        self._over.set()
        self._thread.join(timeout=10)  # a worker that was killed may have left half a message

    def __exit__(self, *error: object) -> None:
        self.drain()
        if self._error is not None and error[0] is None:
            raise self._error

    def _run(self) -> None:
        while True:
            ready = wait(self._pipes, timeout=0.1)
            if not ready and self._over.is_set():
                return
            for pipe in ready:
                assert isinstance(pipe, Connection)
                try:
                    self._take(*pipe.recv())
                except EOFError:
                    self._pipes.remove(pipe)

    def _take(self, event: str, content: Any) -> None:
        if event not in ("text", "episode"):
            self.kept.setdefault(event, []).append(content)
        elif self._error is None:
            try:
                self._report(event, content)
            except Exception as error:  # a logger's; the pipes must be emptied all the same
                self._error = error
