"""The progress of what takes minutes or hours."""

from __future__ import annotations

import importlib.util
import sys
import time
from types import TracebackType
from typing import Any, Protocol, Self

from tqdm import tqdm

#: Where there is no terminal.
SECONDS_BETWEEN_LINES = 60.0


class Progress:
    """Shows on stderr how much is done.

    In a terminal this is a bar: Rich's if Rich is installed, as Lightning's own is then, else tqdm's, as in a notebook.
    Elsewhere, such as in a batch job's log, it is a line at the beginning, a line a minute, and one at the end.

    Args:
        description: what is done.
        unit: what is counted.
        total: how many there are.
        done: how many of them are done already.
        show: whether to show anything.
    """

    def __init__(self, description: str, unit: str, total: int, done: int = 0, show: bool = True) -> None:
        self.done, self._text = done, ""
        self._shown: _Shown | None = _kind()(description, unit, total, done) if show else None

    def advance(self) -> None:
        """One more is done."""
        self.set(self.done + 1)

    def set(self, done: int | None = None, text: str | None = None) -> None:
        """So many are done; ``text`` stands beside that number until there is another."""
        self.done = self.done if done is None else done
        self._text = self._text if text is None else text
        if self._shown is not None:
            self._shown.draw(self.done, self._text)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._shown is not None:
            self._shown.close()


class _Shown(Protocol):
    """One way to show it."""

    def __init__(self, description: str, unit: str, total: int, done: int) -> None: ...

    def draw(self, done: int, text: str) -> None: ...

    def close(self) -> None: ...


def _kind() -> type[_Shown]:
    if "ipykernel" in sys.modules:
        return _Tqdm
    if not sys.stderr.isatty():
        return _Lines
    return _Rich if importlib.util.find_spec("rich") else _Tqdm


class _Bar(tqdm):  # type: ignore[misc]
    """A bar without tqdm's thread, which would outlive it."""

    monitor_interval = 0


class _Tqdm:
    def __init__(self, description: str, unit: str, total: int, done: int) -> None:
        self._bar = _Bar(desc=description, unit=unit, total=total, initial=done, dynamic_ncols=True, miniters=1)

    def draw(self, done: int, text: str) -> None:
        self._bar.set_postfix_str(text, refresh=done == self._bar.n)
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        self._bar.close()


class _Rich:
    def __init__(self, description: str, unit: str, total: int, done: int) -> None:
        from rich import progress
        from rich.console import Console

        columns = (
            *(progress.TextColumn(description), progress.BarColumn(), progress.MofNCompleteColumn()),
            *(progress.TextColumn(unit), progress.TimeElapsedColumn(), progress.TimeRemainingColumn()),
            progress.TextColumn("{task.fields[text]}"),
        )
        self._progress: Any = progress.Progress(*columns, console=Console(stderr=True))
        self._task = self._progress.add_task(description, total=total, completed=done, text="")
        self._progress.start()

    def draw(self, done: int, text: str) -> None:
        self._progress.update(self._task, completed=done, text=text)

    def close(self) -> None:
        self._progress.stop()


class _Lines:
    def __init__(self, description: str, unit: str, total: int, done: int) -> None:
        self._description, self._unit, self._total, self._first = description, unit, total, done
        self._began = time.monotonic()
        self._print(done, "")

    def draw(self, done: int, text: str) -> None:
        self._last = done, text
        if time.monotonic() - self._printed >= SECONDS_BETWEEN_LINES:
            self._print(done, text)

    def close(self) -> None:
        self._print(*self._last)

    def _print(self, done: int, text: str) -> None:
        self._last, self._printed = (done, text), time.monotonic()
        passed = self._printed - self._began
        parts = [f"{self._description}: {100 * done // self._total}%", f"{done} of {self._total} {self._unit}s"]
        parts.append(f"{tqdm.format_interval(passed)} passed")
        if self._first < done < self._total:
            left = passed / (done - self._first) * (self._total - done)
            parts.append(f"about {tqdm.format_interval(left)} left")
        print(", ".join([*parts, *([text] if text else [])]), file=sys.stderr, flush=True)
