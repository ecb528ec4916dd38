"""Sweeps of the first version, which stored their decisions in a journal: read once, into records of trials."""

from __future__ import annotations

from stylegan_ray.cluster.tune.trials import Copy, Record, read_record, write_record
from stylegan_ray.jsonl import read_jsonl
from stylegan_ray.storage import Storage

FILE = "journal.jsonl"


def import_journal(sweep: Storage, trials: Storage) -> None:
    """Writes a record for each trial of a journal that has none yet."""
    if not sweep.exists(FILE):
        return
    records: dict[int, Record] = {}
    for event in read_jsonl(sweep, FILE):
        number = event["trial"]
        match event:
            case {"event": "trial", "values": values}:
                records[number] = Record(number, values)
            case {"event": "exploit", "from": donor, "checkpoint": checkpoint, "kimg": kimg, "values": values}:
                token = f"journal-{event['generation']}"
                records[number] = records[number].with_copy(Copy(token, donor, checkpoint, kimg), values)
            case {"event": "result", "decision": "STOP", "kimg": kimg, "value": value}:
                why = "the objective is not a number" if value is None else f"stopped at {kimg:g} kimg"
                state = "diverged" if value is None else "stopped"
                records[number] = records[number].ended(state, why, kimg)
            case {"event": "end", "state": state, "why": why}:
                records[number] = records[number].ended(state, why)
    for number, record in records.items():
        if read_record(trials, number) is None:
            write_record(trials, record)
