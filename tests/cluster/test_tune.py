"""The tune command as a user runs it: whole sweeps, killed and continued; each starts a Ray of its own."""

from __future__ import annotations

import csv
import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from support.jobs import Job, small_model

pytestmark = pytest.mark.cluster
SPACE = """
loss.r1_gamma: {loguniform: [0.1, 100]}
schedule.G_lrate: {loguniform: [0.0005, 0.01]}
train.G_reg_interval: {choice: [2, 4]}
"""
COMMON = [
    *small_model(), "--run.name", "sweep", "--objective", "Loss/scores/real", "--mode", "min",
    "--cluster.num_workers", "1", "--cluster.cpus_per_worker", "1",
]  # fmt: skip


class Sweep:
    """A storage with one sweep in it."""

    def __init__(self, folder: Path, *options: str, space: str = SPACE) -> None:
        self.folder, self.options, self.num_jobs = folder, options, 0
        self.path = folder / "sweep"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "space.yaml").write_text(space)

    def start(self, pictures: Path) -> Job:
        self.num_jobs += 1
        words = [str(self.folder / "space.yaml"), "config-f", str(pictures), *COMMON, *self.options]
        return Job("tune", *words, storage=self.folder, log=self.folder / f"log{self.num_jobs}")

    def run(self, pictures: Path, status: int = 0) -> str:
        job = self.start(pictures)
        assert job.wait(420) == status, job.text()
        return job.text()

    def events(self, kind: str | None = None) -> list[dict]:
        path = self.path / "journal.jsonl"
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        events = [json.loads(line) for line in lines if line.endswith(b"\n")]
        return [event for event in events if kind in (None, event["event"])]

    def rows(self) -> list[dict]:
        """trials.csv without wall times."""
        rows = csv.DictReader((self.path / "trials.csv").open())
        return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


ASHA = ["--samples", "5", "--grace-kimg", "0.06", "--reduction", "2"]


def test_one_at_a_time_a_killed_asha_sweep_equals_the_whole_one(pictures, tmp_path):
    whole = Sweep(tmp_path / "whole", *ASHA, "--concurrent", "1")
    log = whole.run(pictures)
    assert "Done." in log and "1 trial at once" in log and "Traceback" not in log
    states = [row["state"] for row in whole.rows()]
    assert len(states) == 5 and {"finished", "stopped"} == set(states)

    killed = Sweep(tmp_path / "killed", *ASHA, "--concurrent", "1")
    for least in (4, 9):
        job = killed.start(pictures)
        job.wait_for(lambda least=least: len(killed.events("result")) >= least)
        job.kill()
    killed.run(pictures)
    assert killed.rows() == whole.rows()
    keys = ("trial", "kimg", "value", "decision")
    told = [[{key: event.get(key) for key in keys} for event in sweep.events("result")] for sweep in (killed, whole)]
    assert told[0] == told[1]


def test_with_two_at_once_no_decision_is_lost_and_disk_and_places_are_freed(pictures, tmp_path):
    sweep = Sweep(tmp_path, *ASHA, "--concurrent", "2")
    job = sweep.start(pictures)
    job.wait_for(lambda: any(event["decision"] == "STOP" for event in sweep.events("result")))
    job.kill()
    before = (sweep.path / "journal.jsonl").read_bytes().rpartition(b"\n")[0]
    log = sweep.run(pictures)
    assert (sweep.path / "journal.jsonl").read_bytes().startswith(before)
    results = [(event["trial"], event["kimg"]) for event in sweep.events("result")]
    assert len(results) == len(set(results))
    for row in sweep.rows():
        kept = os.listdir(sweep.path / "trials" / row["folder"] / "checkpoints")
        assert bool(kept) == (row["state"] == "finished"), row
    assert "2 trials at once" in log and len(sweep.rows()) == 5
    again = sweep.run(pictures)
    assert "is finished" in again
    best = Job(
        "train", str(sweep.path / "best.yaml"), "--run.name", "best", storage=tmp_path, log=tmp_path / "best.txt"
    )
    assert best.wait() == 0, best.text()
    assert (tmp_path / "best/network-final.safetensors").exists()


@pytest.mark.parametrize("victim", ["RayTrainWorker", "ResourceTrainable"])
def test_a_killed_process_is_no_matter_and_a_diverged_trial_is_bad(pictures, tmp_path, victim):
    """Trial 0 loses its worker, or what leads it, and goes on; no network survives trial 1's learning rate."""
    space = "schedule.D_lrate: {grid: [0.002, 1.0e+30]}\nschedule.G_lrate: 0.002"
    options = ["--scheduler", "fifo", "--concurrent", "1", "--train.nonfinite_budget", "2"]
    calm, sweep = (Sweep(tmp_path / name, *options, space=space) for name in ("calm", "hurt"))
    job = sweep.start(pictures)
    job.wait_for(lambda: len(sweep.events("result")) >= 2)
    os.kill(pid_of(victim, job.process.pid), signal.SIGKILL)
    assert job.wait(420) == 0, job.text()
    assert victim != "RayTrainWorker" or "fault:" in job.text(), "the person at the sweep hears of it"
    rows = sweep.rows()
    assert [row["state"] for row in rows] == ["finished", "diverged"] and rows[1]["why"]
    calm.run(pictures)
    assert calm.rows()[0] == rows[0], "a run that lost its worker is the same run"


def pid_of(name: str, ancestor: int) -> int:
    """The process of an actor below a process, as this namespace numbers it."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and _is_below(int(entry.name), ancestor):
                try:
                    if name.encode() in (entry / "cmdline").read_bytes():
                        return int(entry.name)
                except OSError:
                    continue
        time.sleep(0.2)
    raise AssertionError(f"no {name} is there")


def _is_below(pid: int, ancestor: int) -> bool:
    while pid > 1:
        if pid == ancestor:
            return True
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return False
    return False


def test_a_population_goes_on_from_an_exact_copy_of_the_better_state(pictures, tmp_path):
    options = ["--scheduler", "pbt", "--samples", "4", "--concurrent", "2", "--perturb-kimg", "0.1"]
    sweep = Sweep(tmp_path, *options, "--cluster.keep_checkpoints", "1")
    job = sweep.start(pictures)
    job.wait_for(lambda: sweep.events("exploit"))
    exploit = sweep.events("exploit")[0]
    job.kill()
    copied = sweep.path / "trials" / f"trial-{exploit['trial']:03d}-g1" / "checkpoints" / exploit["checkpoint"]
    assert (copied / "COMPLETE").exists()
    sums = json.loads((copied / "COMPLETE").read_text())["files"]["state.safetensors"]
    donor = sweep.path / "trials" / exploit["from"] / "checkpoints" / exploit["checkpoint"] / "COMPLETE"
    if donor.exists():  # else the donor has gone on and deleted it, which the copy does not mind
        assert json.loads(donor.read_text())["files"]["state.safetensors"] == sums
    sweep.run(pictures)
    assert sweep.events("exploit")[0] == exploit
    log = (sweep.path / "trials" / f"trial-{exploit['trial']:03d}-g1" / "log.txt").read_text()
    assert f"continuing at {exploit['kimg']:g} kimg from {exploit['checkpoint']}" in log
    rows = sweep.rows()
    assert len(rows) == 4 and all(row["state"] == "finished" for row in rows)
    assert int(rows[exploit["trial"]]["generation"]) >= 1


def test_asked_to_stop_the_trials_save_and_the_same_command_goes_on(pictures, tmp_path):
    sweep = Sweep(tmp_path, *ASHA, "--concurrent", "2")
    job = sweep.start(pictures)
    job.wait_for(lambda: len(sweep.events("result")) >= 2)
    os.kill(driver_pid(job.process.pid), signal.SIGINT)
    assert job.wait(120) == 130, job.text()
    assert "the same command goes on" in job.text()
    assert not sweep.events("end") or len(sweep.events("end")) < 5
    assert "goes on at" in sweep.run(pictures) and len(sweep.rows()) == 5


def driver_pid(ancestor: int) -> int:
    """The Python process of the command inside its namespace."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and _is_below(int(entry.name), ancestor):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if words[0] == sys.executable.encode() and words[1].endswith(b"jobs/tune.py"):
                return int(entry.name)
    raise AssertionError("the command is gone")


def test_a_sweep_takes_a_metric_from_all_workers_of_a_trial(pictures, tmp_path):
    options = ["--samples", "2", "--scheduler", "fifo", "--concurrent", "1", "--cluster.num_workers", "2"]
    sweep = Sweep(tmp_path, *options, "--objective", "fid20_tiny", "--every", "2", "--train.total_kimg", "0.2")
    sweep.run(pictures)
    assert all(row["state"] == "finished" and float(row["Metrics/fid20_tiny"]) > 0 for row in sweep.rows())
