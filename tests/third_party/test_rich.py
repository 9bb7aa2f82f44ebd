import io
import sys

import pytest

from law_lightning.utilities.progress import Progress

pytest.importorskip("rich")


def test_in_a_terminal_progress_is_richs_bar_and_lines_stand_above_it(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys, "stderr", stream)
    with Progress("search", "episode", total=4, done=1) as bar:
        bar.set(2, "gain 0.5")
        print("a warning", file=sys.stderr)
    lines = stream.getvalue().splitlines()
    assert any("a warning" in line and "search" not in line for line in lines)
    for part in ("search", "2/4", "episode", "gain 0.5"):
        assert part in "".join(lines[-2:])
