"""A sweep whose decisions are stored in a journal continues."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("ray")

from stylegan_ray.cluster.tune.journal import FILE, import_journal
from stylegan_ray.cluster.tune.trials import end_record, read_record
from stylegan_ray.storage import Storage

EVENTS = [
    {"event": "trial", "trial": 0, "values": {"loss.r1_gamma": 1.0}},
    {"event": "trial", "trial": 1, "values": {"loss.r1_gamma": 2.0}},
    {"event": "trial", "trial": 2, "values": {"loss.r1_gamma": 3.0}},
    {"event": "trial", "trial": 3, "values": {"loss.r1_gamma": 4.0}},
    {"event": "result", "trial": 0, "generation": 0, "kimg": 1, "value": 5.0, "sec": 1, "decision": "STOP"},
    {"event": "result", "trial": 1, "generation": 0, "kimg": 1, "value": None, "sec": 1, "decision": "STOP"},
    {
        "event": "exploit", "trial": 2, "from": "trial-003", "checkpoint": "ckpt-000000002000", "kimg": 2.0,
        "generation": 1, "values": {"loss.r1_gamma": 4.8},
    },
    {"event": "end", "trial": 3, "state": "finished", "why": ""},
]  # fmt: skip


def test_a_journal_becomes_records_once(tmp_path):
    sweep = Storage.at(tmp_path)
    trials = sweep.folder("trials")
    import_journal(sweep, trials)
    assert trials.names() == []
    sweep.write(FILE, "".join(f"{json.dumps({**event, 'time': 1.0})}\n" for event in EVENTS).encode())
    import_journal(sweep, trials)
    records = [read_record(trials, number) for number in range(4)]
    assert [record.state for record in records] == ["stopped", "diverged", "open", "finished"]
    assert records[2].name == "trial-002-g1" and records[2].values == {"loss.r1_gamma": 4.8}
    end_record(trials, 2, "finished")
    import_journal(sweep, trials)
    assert read_record(trials, 2).state == "finished"
