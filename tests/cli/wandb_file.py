"""Reads the .wandb file of an offline run: LevelDB's log format around protocol buffers."""

import json
import struct

from wandb.proto import wandb_internal_pb2

BLOCK = 32768
HEADER = struct.Struct("<IHB")  # checksum, length, kind: 1 whole, 2 first, 3 middle, 4 last


def records(path):
    """Every record of the file."""
    data = path.read_bytes()
    assert data[:4] == b":W&B"
    position, parts = 7, []
    while position + HEADER.size <= len(data):
        left = BLOCK - position % BLOCK
        if left < HEADER.size:
            position += left
            continue
        _, length, kind = HEADER.unpack_from(data, position)
        position += HEADER.size
        parts.append(data[position : position + length])
        position += length
        if kind in (1, 4):
            yield wandb_internal_pb2.Record.FromString(b"".join(parts))
            parts = []


def _key(item):
    return item.key or "/".join(item.nested_key)


def history(path):
    """The logged rows, as dictionaries."""
    return [
        {_key(item): json.loads(item.value_json) for item in record.history.item}
        for record in records(path)
        if record.WhichOneof("record_type") == "history"
    ]


def config(path):
    """The config as it was logged last."""
    logged = {}
    for record in records(path):
        updates = list(record.run.config.update) + list(record.config.update)
        logged |= {_key(item): json.loads(item.value_json) for item in updates}
    return logged


def exit_codes(path):
    """One code for each time the run was closed."""
    return [r.exit.exit_code for r in records(path) if r.WhichOneof("record_type") == "exit"]
