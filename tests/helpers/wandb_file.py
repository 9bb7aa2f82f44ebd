"""What an offline run of Weights & Biases has written."""

import struct
import time

from wandb.proto.wandb_internal_pb2 import Record

BLOCK, FIRST = 32768, 7  # of LevelDB's log format, which the file has after 7 bytes of its own


def records(folder):
    """The records of the one run below a folder, by kind."""
    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    for _ in range(1200):  # what W&B starts beside the program may write after its finish()
        if "exit" in (found := read(file)):
            return found
        time.sleep(0.05)
    raise AssertionError(f"{file} has no end: {sorted(found)}")


def read(file):
    data, at, parts, found = file.read_bytes(), FIRST, b"", {}
    while at + 7 <= len(data):
        if BLOCK - at % BLOCK < 7:  # no room for a header
            at += BLOCK - at % BLOCK
            continue
        length, kind = struct.unpack("<4xHB", data[at : at + 7])
        parts, at = parts + data[at + 7 : at + 7 + length], at + 7 + length
        if at > len(data):  # not written as a whole yet
            break
        if kind in (1, 4):  # whole, or the last part
            record, parts = Record.FromString(parts), b""
            name = record.WhichOneof("record_type")
            found.setdefault(name, []).append(getattr(record, name))
    return found


def axes(found):
    """The metric over which each metric is drawn."""
    return {each.name: each.step_metric for each in found["metric"] if each.name}


def rows(found):
    """What was logged, a dictionary of texts for each row."""
    return [{item.key or "/".join(item.nested_key): item.value_json for item in row.item} for row in found["history"]]


def files(found):
    """The names of the files of each artifact, by its type."""
    return {each.type: {file.path for file in each.manifest.contents} for each in found.get("artifact", [])}
