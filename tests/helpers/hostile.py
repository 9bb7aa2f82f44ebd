"""What the tests of faults share: which cases run, and files made up to do harm."""

import io
import os
import pickle

import numpy as np
import pytest
import torch

LONG = os.environ.get("LAW_FAULTS") == "long"
#: Marks what is slow, and like another test.
long = pytest.mark.skipif(not LONG, reason="LAW_FAULTS=long")


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def payloads(marker):
    """Files of every format that can hold a pickle."""
    evil = Evil(marker)
    kinds = [{"kind": kind, "format": 1, "state": {"hparams": evil}} for kind in ("strategy", "replay", "search")]
    for value in [*kinds, evil, {"state_dict": evil, "callbacks": {"LAWCallback": evil}}]:
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
