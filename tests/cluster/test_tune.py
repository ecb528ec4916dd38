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

from stylegan_ray.cluster.tune.trials import Trial, read_trials
from stylegan_ray.storage import Storage

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
    """A storage with one sweep."""

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

    def trials(self) -> dict[int, Trial]:
        return read_trials(Storage.at(self.path / "trials"), "Loss/scores/real")

    def num_rows(self) -> int:
        return sum(len(trial.rows) for trial in self.trials().values())

    def rows(self) -> list[dict]:
        """trials.csv without wall times."""
        rows = csv.DictReader((self.path / "trials.csv").open())
        return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


ASHA = ["--samples", "5", "--grace-kimg", "0.06", "--reduction", "2"]


def test_a_killed_asha_sweep_has_the_same_rows_and_keeps_its_decisions(pictures, tmp_path):
    """Tune starts waiting trials in an order of its own after a restore, so ASHA may stop others; rows are the same."""
    whole = Sweep(tmp_path / "whole", *ASHA, "--concurrent", "1")
    log = whole.run(pictures)
    assert "Done." in log and "1 trial at once" in log and "Traceback" not in log

    killed, ends = Sweep(tmp_path / "killed", *ASHA, "--concurrent", "1"), {}
    for least in (4, 9):
        job = killed.start(pictures)
        job.wait_for(lambda least=least: killed.num_rows() >= least)
        job.kill()
        now = {number: trial.record for number, trial in killed.trials().items() if trial.state != "open"}
        assert ends == {number: now[number] for number in ends}, "what has ended stays as it is"
        ends = now
    killed.run(pictures)
    assert ends == {number: killed.trials()[number].record for number in ends}
    for sweep in (whole, killed):
        states = [trial.state for trial in sweep.trials().values()]
        assert len(states) == 5 and set(states) == {"finished", "stopped"}
    for number, trial in killed.trials().items():
        expected = {row.kimg: row.value for row in whole.trials()[number].rows}
        assert trial.values == whole.trials()[number].values and trial.rows
        shared = [row for row in trial.rows if row.kimg in expected]
        assert shared and all(row.value == expected[row.kimg] for row in shared), "bit for bit"


def test_with_two_at_once_no_end_is_lost_and_disk_and_places_are_freed(pictures, tmp_path):
    sweep = Sweep(tmp_path, *ASHA, "--concurrent", "2")
    job = sweep.start(pictures)
    job.wait_for(lambda: any(trial.state == "stopped" for trial in sweep.trials().values()))
    job.kill()
    before = {n: trial.record for n, trial in sweep.trials().items() if trial.state != "open"}
    log = sweep.run(pictures)
    assert {n: sweep.trials()[n].record for n in before} == before
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


@pytest.mark.parametrize(("victim", "workers"), [("RayTrainWorker", "2"), ("ResourceTrainable", "1")])
def test_a_trial_outlives_a_killed_process_and_a_diverged_trial_is_ranked_last(pictures, tmp_path, victim, workers):
    """Trial 0 loses a worker, or its actor, which is the only worker, and continues; trial 1's rate is too high."""
    space = "schedule.D_lrate: {grid: [0.002, 1.0e+30]}\nschedule.G_lrate: 0.002"
    options = ["--scheduler", "fifo", "--concurrent", "1", "--train.nonfinite_budget", "2"]
    options += ["--cluster.num_workers", workers]
    calm, sweep = (Sweep(tmp_path / name, *options, space=space) for name in ("calm", "hurt"))
    job = sweep.start(pictures)
    job.wait_for(lambda: sweep.num_rows() >= 2)
    os.kill(pid_of(victim, job.process.pid), signal.SIGKILL)
    assert job.wait(420) == 0, job.text()
    assert victim != "RayTrainWorker" or "fault:" in job.text(), "the console of the sweep shows it"
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


def test_a_population_continues_from_an_exact_copy_of_the_better_state(pictures, tmp_path):
    # Tune copies from a trial that was among the best at its own last look, so it takes several looks.
    options = ["--scheduler", "pbt", "--samples", "4", "--concurrent", "2", "--perturb-kimg", "0.06"]
    sweep = Sweep(tmp_path, *options, "--cluster.keep_checkpoints", "1", "--train.total_kimg", "0.48")
    job = sweep.start(pictures)
    job.wait_for(lambda: any(trial.record.copies for trial in sweep.trials().values()), 400)
    record = next(trial.record for trial in sweep.trials().values() if trial.record.copies)
    job.kill()
    (copy,) = record.copies
    copied = sweep.path / "trials" / record.name / "checkpoints" / copy.checkpoint / "COMPLETE"
    if copied.exists():  # else the run has gone on and deleted it
        assert json.loads(copied.read_text())["files"]["state.safetensors"]["sha256"] == copy.sha256
    sweep.run(pictures)
    assert sweep.trials()[record.number].record.copies[0] == copy
    log = (sweep.path / "trials" / record.name / "log.txt").read_text()
    assert f"continuing at {copy.kimg:g} kimg from {copy.checkpoint}" in log
    rows = sweep.rows()
    assert len(rows) == 4 and all(row["state"] == "finished" for row in rows)
    assert int(rows[record.number]["generation"]) >= 1


def test_asked_to_stop_the_trials_save_and_the_same_command_continues(pictures, tmp_path):
    sweep = Sweep(tmp_path, *ASHA, "--concurrent", "2")
    job = sweep.start(pictures)
    job.wait_for(lambda: sweep.num_rows() >= 2)
    os.kill(driver_pid(job.process.pid), signal.SIGINT)
    assert job.wait(120) == 130, job.text()
    assert "the same command continues" in job.text()
    assert any(trial.state == "open" for trial in sweep.trials().values()) or len(sweep.trials()) < 5
    assert "continues at" in sweep.run(pictures) and len(sweep.rows()) == 5


def driver_pid(ancestor: int) -> int:
    """The Python process of the command inside its namespace."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and _is_below(int(entry.name), ancestor):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if words[0] == sys.executable.encode() and words[1].endswith(b"jobs/tune.py"):
                return int(entry.name)
    raise AssertionError("the command is gone")


def test_a_sweep_computes_a_metric_on_all_workers_of_a_trial(pictures, tmp_path):
    options = ["--samples", "2", "--scheduler", "fifo", "--concurrent", "1", "--cluster.num_workers", "2"]
    sweep = Sweep(tmp_path, *options, "--objective", "fid20_tiny", "--every", "2", "--train.total_kimg", "0.2")
    sweep.run(pictures)
    assert all(row["state"] == "finished" and float(row["Metrics/fid20_tiny"]) > 0 for row in sweep.rows())
