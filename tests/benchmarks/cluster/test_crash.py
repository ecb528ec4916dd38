"""The benchmark that hurts commands finds what they leave, and finds nothing after those of today."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("ray")

from support.jobs import ROOT, isolated

from benchmarks.cluster import crash
from stylegan_ray.config import RunConfig
from stylegan_ray.data.formats.tfrecord_wire import frame_records


def test_half_files_are_found(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    (tmp_path / "a.json").write_text("{")
    (tmp_path / "b.json").write_text("{}")
    records = frame_records([b"one", b"two"])
    (tmp_path / "a.tfrecords").write_bytes(records[:-1])
    (tmp_path / "b.tfrecords").write_bytes(records)
    (tmp_path / "c.png.12.part").write_bytes(b"")
    (tmp_path / ".lease-00000000").write_text("")
    whole = {path.name: crash.is_whole(tmp_path, path) for path in tmp_path.iterdir()}
    assert [name for name, is_whole in sorted(whole.items()) if not is_whole] == ["a.json", "a.png", "a.tfrecords"]
    assert sorted(crash.leftovers(tmp_path)) == [".lease-00000000", "c.png.12.part"]


def test_a_process_answers_when_it_has_a_handler():
    program = "import signal, sys; print(flush=True); sys.stdin.readline(); signal.signal(15, print); print(flush=True)"
    with subprocess.Popen(
        [sys.executable, "-c", f"{program}; sys.stdin.readline()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        assert not crash.answers(process.pid)
        process.stdin.write(b"\n")
        process.stdin.flush()
        process.stdout.readline()
        assert crash.answers(process.pid)
        process.kill()


def test_processes_of_a_command_are_found_by_their_mark_or_number(tmp_path, monkeypatch):
    child = [sys.executable, "-c", "import sys; sys.stdin.readline()"]
    monkeypatch.setenv(crash.MARK, str(tmp_path))
    with subprocess.Popen(child, stdin=subprocess.PIPE) as ours:
        monkeypatch.delenv(crash.MARK)
        with subprocess.Popen(child, stdin=subprocess.PIPE) as other:
            assert crash.processes_of(tmp_path, []) == [ours.pid]
            assert crash.processes_of(tmp_path, [other.pid]) == sorted([ours.pid, other.pid])
            other.kill()
        ours.kill()


def test_the_moments_follow_the_speed_of_the_machine_and_interrupted_measurements_go_on(tmp_path, monkeypatch):
    moments = []

    def crash_of(folder, name, signal, after_sec):
        moments.append(after_sec)
        return dict.fromkeys(("half_files", "left", "left_over"), ()) | {
            "command": name, "had_ended": False, "can_be_answered": False, "sec_whole": 1e-3,
        }  # fmt: skip

    monkeypatch.setattr(crash, "run_whole", lambda folder, name: 1e6)
    monkeypatch.setattr(crash, "crash", crash_of)
    for crashes in (3, 5):
        options = crash.Options(folder=tmp_path, commands=("prepare_data",), crashes=crashes)
        figures, bars = crash.measure(options, RunConfig())
        assert len(figures["crashes"]) == crashes and all(bar["holds"] for bar in bars)
    assert min(moments[:3]) > 1 and max(moments[3:]) < 1e-3 and len(moments) == 5


@pytest.mark.cluster
def test_two_signals_for_each_command(tmp_path):
    result = tmp_path / "result.json"
    words = ["crash", "--folder", str(tmp_path / "crash"), "--crashes", "2", "--seed", "1", "--json", str(result)]
    words += ["--commands", "train", "tune", "prepare_data", "generate", "evaluate"]
    command = isolated([sys.executable, str(Path(ROOT, "jobs", "benchmark.py")), *words])
    done = subprocess.run(command, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(result.read_text())
    assert len(found["figures"]["crashes"]) == 10 and all(bar["holds"] for bar in found["bars"]), done.stdout
