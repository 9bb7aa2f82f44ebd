"""The time a command has: to stop by itself, before it is stopped."""

from __future__ import annotations

import time


class OutOfTimeError(Exception):
    """What comes next would not end in time."""


class TooShortError(ValueError):
    """The time was too short to get anything done that the next command could go on from."""


class Budget:
    """A number of seconds, counted from now; sent to another process, it ends at the same moment.

    Args:
        seconds: how many; None for no end.
    """

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self._end = float("inf") if seconds is None else time.time() + seconds

    def lacks(self, seconds: float) -> bool:
        """Whether fewer than so many seconds are left."""
        return time.time() + seconds > self._end
