"""The benchmark that hurts commands finds what they leave, and finds nothing after those of today."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("ray")

from support.jobs import ROOT, isolated

from benchmarks.cluster import crash


def test_half_files_are_found(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    (tmp_path / "a.json").write_text("{")
    (tmp_path / "b.json").write_text("{}")
    (tmp_path / "c.png.12.part").write_bytes(b"")
    (tmp_path / ".lease-00000000").write_text("")
    whole = {path.name: crash.is_whole(tmp_path, path) for path in tmp_path.iterdir()}
    assert [name for name, is_whole in sorted(whole.items()) if not is_whole] == ["a.json", "a.png"]
    assert sorted(crash.leftovers(tmp_path)) == [".lease-00000000", "c.png.12.part"]


@pytest.mark.cluster
def test_two_signals_for_each_command(tmp_path):
    result = tmp_path / "result.json"
    words = ["crash", "--folder", str(tmp_path / "crash"), "--crashes", "2", "--seed", "1", "--json", str(result)]
    command = isolated([sys.executable, str(Path(ROOT, "jobs", "benchmark.py")), *words])
    done = subprocess.run(command, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(result.read_text())
    assert len(found["figures"]["crashes"]) == 10 and all(bar["holds"] for bar in found["bars"]), done.stdout
