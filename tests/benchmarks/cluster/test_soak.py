"""The benchmark that lets a run train for hours tells a planted leak by its process, and trains for minutes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("ray")

from support.jobs import ROOT, isolated

from benchmarks.cluster import soak
from benchmarks.cluster.crash import SMALL


def process(number, title, rss_mb, descriptors=40):
    return {
        "id": f"{number}@0", "title": title, "rss_mb": rss_mb, "shared_mb": 0.0, "threads": 9,
        "descriptors": descriptors,
    }  # fmt: skip


def samples(leaks_mb=0.0, leaks_descriptors=0):
    """Half an hour with a resume in the middle; one worker of two grows, in MiB and descriptors an hour."""
    for i in range(360):
        hours, started = i / 720, 10 * (i // 180)
        grown = hours % 0.25
        yield {
            "sec": 5.0 * i, "session": str(started), "object_store_mb": 3.0 if i % 7 else None,
            "disk_mb": {"checkpoints": 30.0, "outputs": 10.0 + i, "spill": 0.0, "ray_session": 5.0},
            "processes": [
                process(started + 1, soak.DRIVER, 430.0),
                process(started + 2, "ray::RayTrainWorker", 500.0 + started),
                process(
                    started + 3, "ray::RayTrainWorker", 500.0 + leaks_mb * grown, 60 + int(leaks_descriptors * grown)
                ),
                process(started + 4, "ray::ReadReals" if i % 3 == 0 else soak.IDLE, 200.0),
                process(started + 5, "raylet", 30.0 + 100 * hours),
            ],
        }  # fmt: skip


def verdict(rows):
    """Bars that are missed, by name."""
    figures = soak.figures_of(list(rows), least_hours=0.1) | {"processes_left": []}
    assert set(figures["ours"]) == {"driver", "ray::RayTrainWorker", "ray::ReadReals"}
    assert set(figures["ray"]) == {"raylet"}
    return [bar["name"] for bar in soak.bars_of(figures) if not bar["holds"]]


def test_no_leak_passes_though_a_daemon_of_ray_grows():
    assert verdict(samples()) == []


def test_planted_leaks_are_found():
    missed, alone = verdict(samples(leaks_mb=20))  # 4 % an hour of one worker is 2 % of both
    assert missed.startswith("ray::RayTrainWorker: rss_mb") and "one process alone" in alone
    (missed,) = verdict(samples(leaks_descriptors=100))
    assert missed.startswith("ray::RayTrainWorker: descriptors")


def test_one_process_cannot_hide_behind_others():
    rows = [row for row in samples(leaks_mb=8) if row["session"] == "0"]
    for row in rows:
        row["sec"] *= 2
    figures = soak.figures_of(rows, least_hours=0.1)
    assert max(found["percent_per_hour"] for found in figures["long_lifetimes"]) == pytest.approx(0.8, abs=0.1)


def test_a_process_begins_another_lifetime_with_its_first_task_of_another_kind():
    """Code that a task loads stays in memory, also while its process waits."""
    tasks = ["ReadReals", "IDLE", "metric_task", "IDLE", "metric_task", "ReadReals"]
    rows = [
        {"sec": 3600.0 * i, "processes": [process(1, f"ray::{task}", 200.0 if i < 2 else 400.0)]}
        for i, task in enumerate(tasks)
    ]
    lives = soak.lifetimes_of(rows)
    assert [(role, [hours for hours, _ in samples]) for (role, _), samples in lives.items()] == [
        ("ray::ReadReals", [0.0, 1.0]),
        ("ray::metric_task", [2.0, 3.0, 4.0]),
        ("ray::ReadReals", [5.0]),
    ]


def test_object_store_of_a_raylet():
    stored = "{object_store_memory: [%d], CPU: [1]}"
    text = f'Local resources: {{"total":{stored % 20971520000}, "available": {stored % 10485760000}'
    assert soak.store_in_use_mb(text) == pytest.approx(1.0)
    assert soak.store_in_use_mb(text[:60]) is None and soak.store_in_use_mb("") is None


@pytest.mark.cluster
def test_a_few_minutes_with_each_kind_of_end(tmp_path):
    result, folder = tmp_path / "result.json", tmp_path / "soak"
    small = [word for key, value in SMALL.items() for word in (f"--{key}", str(value))]
    words = ["soak", "--folder", str(folder), "--hours", "0.08", "--resume-minutes", "0.5", "--every-sec", "0.5"]
    command = [sys.executable, str(Path(ROOT, "jobs", "benchmark.py")), *words, "--least-minutes", "0.3", *small]
    done = subprocess.run(isolated([*command, "--json", str(result)]), capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(result.read_text())["figures"]
    assert found["ends"] and found["ticks"] and not found["processes_left"]
    assert "driver" in found["ours"] and "raylet" in found["ray"]
    rows = [json.loads(line) for line in (folder / soak.SAMPLES).read_text().splitlines()]
    assert len(rows) == found["samples"] and (folder / soak.PLOT).stat().st_size > 10_000
