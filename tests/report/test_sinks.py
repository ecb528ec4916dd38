"""What a person sees of a run."""

import io
import json
import os
import struct

import fsspec
import pytest
import torch
from pyarrow import fs
from tensorboardX.proto.event_pb2 import Event

from stylegan_ray.config import load_config
from stylegan_ray.report import sinks
from stylegan_ray.report.sinks import ConsoleView, RunFiles, closing_message, format_time, kimg_name, tick_line
from stylegan_ray.storage import Storage


def row(tick, **change):
    return {
        "Progress/tick": tick,
        "Progress/kimg": tick * 4.0 + 0.128,
        "Progress/lod": 0.0,
        "Progress/minibatch": 32,
        "Progress/augment_p": 0.0,
        "Loss/G/loss": 0.8123,
        "Loss/D/loss": 1.2345,
        "nonfinite": 0,
        "Timing/total_sec": 192.4,
        "Timing/sec_per_tick": 13.12,
        "Timing/sec_per_kimg": 3.28,
        "Timing/maintenance_sec": 0.4,
        **{f"Timing/share/{part}": 0.01 * i for i, part in enumerate(sinks.SHARES, 1)},
        "Resources/peak_gpu_mem_gb": 0.0,
        "Resources/cpu_mem_gb": 0.7,
        **change,
    }


def object_store(name):
    """A file system without folders and without appending that RunFiles makes use of."""
    return Storage(fs.PyFileSystem(fs.FSSpecHandler(fsspec.filesystem("memory"))), f"/{name}")


@pytest.fixture(params=["local", "object store"])
def run(request, tmp_path):
    """A run folder on a disk, and one on a file system that RunFiles may not append to."""
    if request.param == "local":
        return Storage.at(tmp_path)
    return object_store(tmp_path.name)


def ticks(run):
    return [json.loads(line)["Progress/tick"] for line in run.read("stats.jsonl").splitlines()]


def started(run, num_ticks=0):
    files = RunFiles(run, load_config("tiny"))
    files.restore(num_ticks)
    return files


def events(run):
    """Every event of every TensorBoard file, in the order of the file names."""
    for name in run.names("tensorboard"):
        content = run.read(f"tensorboard/{name}")
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            yield Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]


def scalars(run, tag):
    """Steps of a scalar as TensorBoard shows them: a session's start purges what older files hold from there on."""
    steps = []
    for event in events(run):
        if event.HasField("session_log"):
            steps = [step for step in steps if step < event.step]
        steps += [event.step for value in event.summary.value if value.tag == tag]
    return steps


def test_a_tick_is_noted_everywhere(run):
    files = started(run)
    line = files.tick(row(0))
    files.message("hello")
    files.tick(row(1, **{"Loss/G/reg": float("nan")}))
    files.close()
    assert [json.loads(text) for text in run.read("stats.jsonl").splitlines()] == [
        row(0),
        row(1, **{"Loss/G/reg": None}),
    ]
    assert run.read("log.txt").decode().splitlines()[:2] == [line, "hello"]
    assert scalars(run, "Loss/D/loss") == [128, 4128]


def test_each_tick_stands_once_after_a_crash(run):
    """Killed in tick 4 with a checkpoint of 3 ticks, so that ticks 3 and 4 come again."""
    files = started(run)
    for tick in range(5):
        files.tick(row(tick))
        files.message(f"after {tick}")
        files.metric({"Progress/tick": tick, "kimg": tick * 4.0, "metric": "fid50k", "value": 10.0 - tick})
    files.sync()
    for name in ("stats.jsonl", "log.txt", "metrics.jsonl"):
        run.write(name, run.read(name) + b'{"Progress/tick": 2, "torn')
    files = started(run, num_ticks=3)
    files.message("continued")
    for tick in (3, 4):
        files.tick(row(tick, nonfinite=1))
    files.close()
    assert ticks(run) == [0, 1, 2, 3, 4]
    assert [json.loads(text)["nonfinite"] for text in run.read("stats.jsonl").splitlines()] == [0, 0, 0, 1, 1]
    assert [json.loads(text)["Progress/tick"] for text in run.read("metrics.jsonl").splitlines()] == [0, 1, 2]
    log = [text.split("kimg")[0].strip() for text in run.read("log.txt").decode().splitlines()]
    before = ["tick 0", "after 0", "tick 1", "after 1", "tick 2", "after 2", "after 3", "after 4"]
    assert log == [*before, "continued", "tick 3", "tick 4"]
    assert scalars(run, "Loss/D/loss") == [128, 4128, 8128, 12128, 16128]
    assert scalars(run, "Metrics/fid50k") == [0, 4000, 8000]


def test_a_run_that_died_before_its_first_checkpoint_begins_anew(run):
    files = started(run)
    files.tick(row(0))
    files.sync()
    started(run).close()
    assert run.read("stats.jsonl") == run.read("log.txt") == b""
    assert scalars(run, "Loss/D/loss") == []


def test_nothing_is_lost_that_was_whole(run):
    """A resume at the very last tick keeps all, byte for byte."""
    files = started(run)
    for tick in range(3):
        files.tick(row(tick))
    files.sync()
    before = run.read("stats.jsonl"), run.read("log.txt")
    started(run, num_ticks=3).close()
    assert (run.read("stats.jsonl"), run.read("log.txt")) == before


def test_object_stores_are_written_at_sync_only(tmp_path):
    run = object_store(tmp_path.name)
    files = started(run)
    files.tick(row(0))
    assert not run.exists("stats.jsonl")
    files.sync()
    assert ticks(run) == [0]
    files.close()
    assert not files.folder.exists(), "the local copy goes when the run ends"


def test_local_files_grow_in_place(tmp_path):
    run = Storage.at(tmp_path)
    files = started(run)
    for tick in range(2):
        files.tick(row(tick))
        assert ticks(run) == list(range(tick + 1))
    files.close()


def test_pictures(run):
    files = started(run)
    files.picture("fakes000004.250", torch.zeros(3, 4, 5000, dtype=torch.uint8), 4250)
    files.close()
    assert run.read("fakes000004.250.png").startswith(b"\x89PNG")
    (image,) = [value for event in events(run) for value in event.summary.value if value.HasField("image")]
    assert (image.tag, image.image.width) == ("fakes", 1666), "TensorBoard keeps a smaller one"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0s"), (59.4, "59s"), (59.6, "1m 00s"), (192, "3m 12s"), (7207, "2h 00m 07s"), (102600, "1d 04h 30m")],
)
def test_format_time(seconds, words):
    assert format_time(seconds) == words


@pytest.mark.parametrize(
    ("nimg", "name"), [(0, "000000"), (250, "000000.250"), (60_000, "000060"), (12_128, "000012.128")]
)
def test_kimg_name(nimg, name):
    assert kimg_name(nimg) == name


def test_tick_line():
    line = " ".join(tick_line(row(12, **{"Progress/kimg": 48.0})).split())
    assert line == (
        "tick 12 kimg 48.0 lod 0.00 minibatch 32 time 3m 12s sec/tick 13.1 sec/kimg 3.28 maintenance 0.4 gpumem 0.0 "
        "data 1% G 2% Greg 3% D 4% Dreg 5% reduce 6% checkpoint 7% loss G 0.812 D 1.234"
    )
    assert tick_line(row(12, nonfinite=3)).endswith("nonfinite 3")
    assert "augment 0.250" in tick_line(row(12, **{"Progress/augment_p": 0.25}))


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True

    def screen(self):
        """The lines as a terminal would show them, without colours."""
        text = self.getvalue()
        for code in ("\x1b[32m", "\x1b[0m", "\x1b[0;2m"):
            text = text.replace(code, "")
        return [line.split("\x1b[2K")[-1].rstrip("\r") for line in text.split("\n")]


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setattr(sinks.shutil, "get_terminal_size", lambda: os.terminal_size((100, 24)))
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    return Terminal()


def test_a_job_log_shows_tick_lines():
    stream = io.StringIO()
    view = ConsoleView(60, stream)
    view.message("hello")
    view.tick(row(0))
    view.close()
    assert stream.getvalue() == f"hello\n{tick_line(row(0))}\n"


def test_a_terminal_shows_one_bar_below_the_messages(terminal):
    view = ConsoleView(60, terminal)
    view.tick(row(0))
    view.tick(row(7))
    view.message("hello")
    view.tick(row(8, **{"Progress/kimg": 30.0}))
    view.close()
    lines = terminal.screen()
    assert lines[0] == "hello" and len(lines) == 3 and lines[2] == ""
    assert lines[1].startswith(" 50%  ━━━") and "30.0 / 60 kimg  3m 12s  1m 38s left  3.28 sec/kimg" in lines[1]
    assert 0 <= lines[1].count("━") - lines[1].count("─") <= 1, "half of the bar is full"
    assert len(lines[1]) <= 99


@pytest.mark.parametrize("width", [20, 40, 60, 80, 200])
def test_the_bar_fits_any_terminal(terminal, monkeypatch, width):
    monkeypatch.setattr(sinks.shutil, "get_terminal_size", lambda: os.terminal_size((width, 24)))
    view = ConsoleView(25000, terminal)
    view.tick(row(3000))
    assert 0 < len(terminal.screen()[-1]) < width
    assert "12000.1" in terminal.screen()[-1]


def test_closing_message(tmp_path):
    for name in (
        "fakes000012.png",
        "fakes000060.png",
        "fakes_init.png",
        "reals.png",
        "network-snapshot-000060.safetensors",
    ):
        (tmp_path / name).touch()
    cfg = load_config("tiny", {"train.total_kimg": 60})
    done = closing_message(str(tmp_path), cfg, "done", "python jobs/train.py tiny --train.total-kimg=60 --data.cond")
    assert f"{tmp_path}/fakes000060.png" in done and "network-snapshot-000060" in done
    assert f"stylegan-ray generate {tmp_path} --seeds" in done
    assert "python jobs/train.py tiny --data.cond --train.total_kimg 120" in done
    stopped = closing_message(str(tmp_path), cfg, "stopped", "python jobs/train.py tiny")
    measured = cfg.with_overrides({"metrics.names": ("fid5k_tiny",)})
    assert f"evaluate plot {tmp_path}" in closing_message(str(tmp_path), measured, "done") and "plot" not in stopped
    assert stopped.splitlines()[-1].split() == ["Go", "on", "python", "jobs/train.py", "tiny"]
