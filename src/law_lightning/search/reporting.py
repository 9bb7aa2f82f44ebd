"""What a search shows while it runs: the progress bar, and metrics for a logger."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch.loggers import Logger
from tqdm import tqdm

#: Shows an event, by name, with its content: ``text`` beside the bar, or an ``episode`` that ended.
Report = Callable[[str, Any], None]


class _Bar(tqdm):  # type: ignore[misc]
    """Without tqdm's thread, which would outlive the search; the text that episodes set refreshes the bar."""

    monitor_interval = 0


@contextmanager
def reporting(logger: Logger | None, episodes: int, done: int, show: bool) -> Iterator[Report]:
    """What shows events, with its bar.

    Args:
        logger: for the metrics of episodes, or None.
        episodes: of the whole search.
        done: episodes done before.
        show: whether to show the bar.
    """
    with _Bar(total=episodes, initial=done, desc="search", unit="episode", disable=not show) as bar:

        def report(event: str, content: Any) -> None:
            if event == "text":
                bar.set_postfix_str(content)
                return
            if logger is not None:
                for step, scalars in content["metrics"]:
                    logger.log_metrics(scalars, step=step)
                logger.save()
            bar.set_postfix_str(content["text"])
            bar.update()

        yield report
