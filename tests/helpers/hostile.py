"""What the tests of hostile files share: bounds, payloads, and states with one entry forged."""

import io
import math
import os
import pickle
import resource
import signal
import sys
from contextlib import contextmanager

import numpy as np
import pytest
import torch

LONG = os.environ.get("LAW_FAULTS") == "long"
#: Marks what is slow, and like another test.
long = pytest.mark.skipif(not LONG, reason="LAW_FAULTS=long")
STATES = ("strategy", "replay", "search")
MOST_MEMORY, MOST_SECONDS = 2**30, 20


def number(cases):
    """How many cases run, of (all, those of the sample)."""
    return cases[0] if LONG else cases[1]


class HangError(BaseException):  # of no kind that a reader would catch
    pass


@contextmanager
def bounded():
    """Neither a hang nor much memory; what a file asks for beyond that fails instead of ending the machine."""

    def stop(*_):
        raise HangError

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    limits = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)  # of the processor: other programs may take their time
    if sys.platform == "linux":
        with open("/proc/self/statm") as file:  # noqa: PTH123
            used = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 8 * 2**30, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, handler)
    unit = 1 if sys.platform == "darwin" else 1024
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit < MOST_MEMORY


class Evil:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def payloads(marker):
    """Files that make a folder when they are unpickled."""
    evil = Evil(marker)
    wrapped = [{"kind": kind, "format": 1, "state": {"hparams": evil, "settings": evil}} for kind in STATES]
    for value in [*wrapped, evil, {"state_dict": evil, "callbacks": {"LAWCallback": evil}}]:
        yield pickle.dumps(value)
        for zipped in (True, False):
            file = io.BytesIO()
            torch.save(value, file, _use_new_zipfile_serialization=zipped)
            yield file.getvalue()
    objects = np.empty(1, object)
    objects[0] = evil
    for save in (np.save, lambda file, x: np.savez(file, train_x=x, train_y=x, test_x=x, test_y=x)):
        file = io.BytesIO()
        save(file, objects)
        yield file.getvalue()


#: What takes the place of an entry of a state, given that entry.
HOSTILE = {
    "none": lambda old: None,
    "text": lambda old: "x",
    "list": lambda old: [],
    "dict": lambda old: {},
    "true": lambda old: True,
    "minus one": lambda old: -1,
    "large": lambda old: 10**9,
    "2**62": lambda old: 2**62,
    "huge": lambda old: 10**400,
    "nan": lambda old: math.nan,
    "infinite": lambda old: -math.inf,
    "widths": lambda old: [10**9],
    "many widths": lambda old: [1] * 10**5,
    "nan tensor": lambda old: torch.full_like(old, math.nan, dtype=torch.float32) if is_tensor(old) else math.nan,
    "another shape": lambda old: old[..., None] if is_tensor(old) else torch.zeros(2, 3),
    "no rows": lambda old: old[:0] if is_tensor(old) and old.ndim else torch.zeros(0),
    "one number as many": lambda old: torch.zeros((), dtype=old.dtype if is_tensor(old) else None).expand(2**40),
    "one row as many": lambda old: torch.zeros(1, 2).expand(2**35, 2),
    "huge integers": lambda old: torch.full_like(old, 2**40, dtype=torch.int64) if is_tensor(old) else 2**40,
}
is_tensor = torch.is_tensor


def places(state, above=()):
    """The keys that lead to every entry of a nested state."""
    entries = state.items() if isinstance(state, dict) else enumerate(state)
    for key, value in entries:
        yield (*above, key)
        if isinstance(value, (dict, list)):
            yield from places(value, (*above, key))


def forge(state, draw):
    """Replace, or leave out, one entry; each of a state's parts is as likely. Returns what was done."""
    chosen = draw.choice(sorted({place[:2] for place in places(state)}, key=str))
    *above, key = draw.choice([place for place in places(state) if place[: len(chosen)] == chosen])
    for each in above:
        state = state[each]
    how = draw.choice(["left out", *HOSTILE])
    if how == "left out":
        del state[key]
    else:
        state[key] = HOSTILE[how](state[key])
    return [*above, key, how]


def written(content):
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()
