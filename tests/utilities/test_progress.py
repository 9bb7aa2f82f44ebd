import io
import sys

import pytest

from law_lightning.utilities import progress
from law_lightning.utilities.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown(monkeypatch, stream, **options):
    """What a run shows that has done 1 of 4, and does two more."""
    monkeypatch.setattr(sys, "stderr", stream)
    with Progress("search", "episode", total=4, done=1, **options) as bar:
        bar.advance()
        bar.set(text="evaluate 1/2")
        bar.set(3, "gain 0.5")
        assert bar.done == 3
    return stream.getvalue()


def test_without_a_terminal_there_is_a_line_a_minute(monkeypatch):
    now = iter([0, 0, 59.9, 61, 61, 70, 130])  # two are read to begin with, one more for each line
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    assert shown(monkeypatch, io.StringIO()).splitlines() == [
        "search: 25%, 1 of 4 episodes, 00:00 passed",
        "search: 50%, 2 of 4 episodes, 01:01 passed, about 02:02 left, evaluate 1/2",
        "search: 75%, 3 of 4 episodes, 02:10 passed, about 01:05 left, gain 0.5",
    ]


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_nothing_is_shown_where_nothing_is_to_be(monkeypatch, stream):
    assert shown(monkeypatch, stream(), show=False) == ""


def test_in_a_terminal_without_rich_there_is_tqdms_bar(monkeypatch):
    monkeypatch.setattr(progress.importlib.util, "find_spec", lambda name: None)
    out = shown(monkeypatch, Terminal())
    assert "search:  25%|" in out
    assert "evaluate 1/2" in out
    assert "3/4 [" in out.rpartition("\r")[2]
    assert "gain 0.5" in out.rpartition("\r")[2]
