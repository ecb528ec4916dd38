"""What the offline files of Weights & Biases hold: LevelDB's log format, one protocol buffer a record."""

from __future__ import annotations

import json

HEADER, BLOCK = 7, 1 << 15
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def records(path):
    """The records of a .wandb file, oldest first; a record that was cut short is left out."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, at, parts = path.read_bytes(), HEADER, b""
    while at + HEADER <= len(content):
        left = BLOCK - at % BLOCK
        if left < HEADER:
            at += left
            continue
        length, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        piece = content[at + HEADER : at + HEADER + length]
        at += HEADER + length
        if len(piece) < length:
            return
        parts = piece if kind in (FULL, FIRST) else parts + piece
        if kind in (FULL, LAST):
            yield Record.FromString(parts)


def sessions(folder):
    """The .wandb files below a folder, oldest first."""
    return sorted(folder.glob("wandb/offline-run-*/*.wandb"))


def rows(folder):
    """Every row of the history, over all sessions: a dictionary of values by key."""
    found = []
    for path in sessions(folder):
        for record in records(path):
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                found.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items})
    return found


def runs(folder):
    """The run of each session: id, project, group, notes."""
    return [
        record.run for path in sessions(folder) for record in records(path) if record.WhichOneof("record_type") == "run"
    ]
