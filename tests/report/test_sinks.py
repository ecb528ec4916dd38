"""All sinks of a run get every event, each tick is stored once, and a sink that fails never stops a run."""

import json

import pytest
import torch
from support.reports import events, nimg_after, object_store, row, scalars

from stylegan_ray.config import load_config
from stylegan_ray.report.run_files import RunFiles
from stylegan_ray.report.sinks import Sinks
from stylegan_ray.storage import Storage


@pytest.fixture(params=["local", "object store"])
def run(request, tmp_path):
    """A run folder on a disk, and one on a file system that cannot append."""
    return Storage.at(tmp_path) if request.param == "local" else object_store(tmp_path.name)


def started(run, num_ticks=0):
    sinks = Sinks.of(load_config("tiny"), run.write, print)
    sinks.begin(run, num_ticks, nimg_after(num_ticks))
    return sinks


def test_a_tick_reaches_files_and_tensorboard(run):
    sinks = started(run)
    sinks.tick(row(0))
    sinks.message("hello")
    sinks.tick(row(1, **{"Loss/G/reg": float("nan")}))
    sinks.close()
    rows = [json.loads(line) for line in run.read("stats.jsonl").splitlines()]
    assert rows == [row(0), row(1, **{"Loss/G/reg": None})]
    assert run.read("log.txt").decode().splitlines()[1] == "hello"
    assert scalars(run, "Loss/D/loss") == [128, 4128]


def test_each_tick_is_stored_once_after_a_crash(run):
    """Killed in tick 4 with a checkpoint of 3 ticks, so that ticks 3 and 4 are repeated."""
    sinks = started(run)
    for tick in range(5):
        sinks.tick(row(tick))
        sinks.message(f"after {tick}")
        sinks.metric({"Progress/tick": tick, "kimg": tick * 4.0, "metric": "fid50k", "value": 10.0 - tick})
    sinks.sync()
    for name in ("stats.jsonl", "log.txt", "metrics.jsonl"):
        run.write(name, run.read(name) + b'{"Progress/tick": 2, "torn')
    sinks = started(run, num_ticks=3)
    sinks.message("continued")
    for tick in (3, 4):
        sinks.tick(row(tick, nonfinite=1))
    sinks.close()
    rows = [json.loads(line) for line in run.read("stats.jsonl").splitlines()]
    assert [(r["Progress/tick"], r["nonfinite"]) for r in rows] == [(0, 0), (1, 0), (2, 0), (3, 1), (4, 1)]
    assert [json.loads(line)["Progress/tick"] for line in run.read("metrics.jsonl").splitlines()] == [0, 1, 2]
    log = [line.split("kimg")[0].strip() for line in run.read("log.txt").decode().splitlines()]
    before = ["tick 0", "after 0", "tick 1", "after 1", "tick 2", "after 2", "after 3", "after 4"]
    assert log == [*before, "continued", "tick 3", "tick 4"]
    assert scalars(run, "Loss/D/loss") == [128, 4128, 8128, 12128, 16128]
    assert scalars(run, "Metrics/fid50k") == [0, 4000, 8000]


def test_the_same_sinks_begin_again_after_a_rollback(run):
    sinks = started(run)
    for tick in range(3):
        sinks.tick(row(tick))
    sinks.sync()
    sinks.begin(run, 1, nimg_after(1))
    sinks.tick(row(1))
    sinks.close()
    assert [json.loads(line)["Progress/tick"] for line in run.read("stats.jsonl").splitlines()] == [0, 1]
    assert scalars(run, "Loss/D/loss") == [128, 4128]


def test_a_run_that_died_before_its_first_checkpoint_begins_anew(run):
    sinks = started(run)
    sinks.tick(row(0))
    sinks.sync()
    started(run).close()
    assert run.read("stats.jsonl") == run.read("log.txt") == b""
    assert scalars(run, "Loss/D/loss") == []


def test_files_ahead_of_the_checkpoint_are_deleted_at_a_resume(run):
    for name in ("fakes000004.128.png", "fakes000008.128.png", "network-snapshot-000008.128.safetensors"):
        run.write(name, b"")
    started(run, num_ticks=2).close()
    assert not {"fakes000008.128.png", "network-snapshot-000008.128.safetensors"} & set(run.names())
    assert "fakes000004.128.png" in run.names()


def test_a_resume_at_the_last_tick_keeps_every_byte(run):
    sinks = started(run)
    for tick in range(3):
        sinks.tick(row(tick))
    sinks.sync()
    before = run.read("stats.jsonl"), run.read("log.txt")
    started(run, num_ticks=3).close()
    assert (run.read("stats.jsonl"), run.read("log.txt")) == before


class Broken:
    """A tracker that fails at every event."""

    def __getattr__(self, event):
        def fail(*_):
            raise RuntimeError(f"no route to the tracker at {event}")

        return fail


class Recording:
    """A tracker that remembers what reaches it."""

    def __init__(self):
        self.seen = []

    def __getattr__(self, event):
        return lambda *arguments: self.seen.append((event, *arguments[:1]))


def test_a_sink_that_fails_is_reported_once_and_stops_nothing(tmp_path):
    run, messages, other = Storage.at(tmp_path), [], Recording()
    sinks = Sinks(RunFiles(run.write), {"tracker": Broken(), "other": other}, messages.append)
    sinks.begin(run, 0, 0)
    sinks.tick(row(0))
    sinks.metric({"Progress/tick": 0, "kimg": 0, "metric": "fid50k", "value": 1.0})
    sinks.images("fakes", torch.zeros(3, 2, 2, dtype=torch.uint8), 0)
    sinks.histograms("G/w", torch.zeros(3), 0)
    sinks.message("hello")
    sinks.sync()
    sinks.close()
    (message,) = messages
    assert message.startswith("fault: tracker") and "no route to the tracker at begin" in message
    assert [event for event, *_ in other.seen] == [
        "begin", "tick", "metric", "images", "histograms", "message", "sync", "close",
    ]  # fmt: skip
    assert len(run.read("stats.jsonl").splitlines()) == 1


def test_no_checkpoint_may_be_written_while_the_run_files_cannot_be_stored(tmp_path):
    store, refuses = object_store(tmp_path.name), []

    class Full(Storage):
        def write(self, name, content):
            if refuses:
                raise OSError(28, "No space left on device")
            super().write(name, content)

    run = Full(store.filesystem, store.root)
    sinks = started(run)
    refuses.append(True)
    sinks.tick(row(0))
    with pytest.raises(OSError, match="No space left"):
        sinks.sync()
    refuses.clear()
    sinks.sync()
    assert len(run.read("stats.jsonl").splitlines()) == 1
    sinks.close()


def test_weights_have_histograms_in_tensorboard(tmp_path):
    run = Storage.at(tmp_path)
    sinks = started(run)
    sinks.histograms("G/w", torch.arange(10.0), 16)
    sinks.close()
    (value,) = [(e.step, v.tag, v.histo.num) for e in events(run) for v in e.summary.value if v.HasField("histo")]
    assert value == (16, "G/w", 10)
