"""Killed sweeps: Tune is restored, trials continue from their own checkpoints, and nothing finished runs again.

The Tuner, its schedulers and searchers are real; trials are toys that write real checkpoints (support/toy_sweep.py).
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("ray")

from support import toy_sweep
from support.jobs import isolated

from stylegan_ray.cluster.tune.trials import Record, read_trials
from stylegan_ray.storage import Storage

TESTS = Path(__file__).resolve().parents[2]


class ToySweep:
    """A sweep in a folder, run by one process after another, each in a process namespace of its own."""

    def __init__(self, folder: Path, scheduler: str, search: str, samples: int, tick_sec: float = 0.2) -> None:
        self.folder, self.log = folder / "sweep", folder / "log"
        self.words = [str(self.folder), scheduler, search, str(samples), "2", str(tick_sec)]
        self.num_kills = 0

    def start(self) -> subprocess.Popen:
        with self.log.open("a") as out:
            command, env = isolated([sys.executable, toy_sweep.__file__, *self.words]), dict(os.environ)
            env["RAY_AUTH_MODE"] = "disabled"
            env["PYTHONPATH"] = os.pathsep.join([str(TESTS.parent), str(TESTS)])  # for the trials' processes, too
            return subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True, env=env)

    def run(self, seconds: float = 240) -> None:
        process = self.start()
        try:
            assert process.wait(seconds) == 0, self.log.read_text()
        finally:
            self.end(process)

    def end(self, process: subprocess.Popen) -> None:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            self.num_kills += 1

    def kill_after(self, seconds: float) -> bool:
        """Whether the sweep was still running by then, and is now killed."""
        process = self.start()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.end(process)
            return True
        assert process.returncode == 0, self.log.read_text()
        return False

    def kill_when(self, condition, seconds: float = 240) -> None:
        process, deadline = self.start(), time.monotonic() + seconds
        try:
            while not condition():
                assert process.poll() is None and time.monotonic() < deadline, self.log.read_text()
                time.sleep(0.05)
        finally:
            self.end(process)

    def trials(self):
        return read_trials(Storage.at(self.folder / "trials"), toy_sweep.OBJECTIVE)

    def events(self, run: str) -> list[dict]:
        path = self.folder / "trials" / run / "ticks.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def num_ticks(self) -> int:
        return sum(
            "tick" in event
            for path in self.folder.glob("trials/*/ticks.jsonl")
            for event in self.events(path.parent.name)
        )

    def check(self, samples: int) -> None:
        """What is promised of a killed sweep that was continued to its end."""
        trials = self.trials()
        assert sorted(trials) == list(range(samples))
        for trial in trials.values():
            assert trial.state in ("finished", "stopped"), trial.record
            rows = [(row.generation, row.kimg) for row in trial.rows]
            assert rows == sorted(set(rows)), "each tick is stored once"
            for generation, run in enumerate(reversed(trial.record.runs)):
                self.check_run(trial.record, generation, self.events(run))

    def check_run(self, record: Record, generation: int, events: list[dict]) -> None:
        """A run repeats no tick whose checkpoint is complete, and none at all when it is finished."""
        done = record.copies[generation - 1].kimg if generation else 0.0
        for event in events:
            if "start" in event:
                # A tick is noted after its checkpoint, so that one may be ahead of the notes.
                assert done <= event["start"] / 1000 <= done + 1, events
                done = event["start"] / 1000
            else:
                assert event["tick"] == done + 1 <= toy_sweep.TOTAL_KIMG, events
                done = event["tick"]


def copies_are_exact(sweep: ToySweep) -> int:
    """The number of copies that began with exactly the bytes of the donor's checkpoint."""
    num = 0
    for trial in sweep.trials().values():
        for generation, copy in enumerate(trial.record.copies, start=1):
            first = next((e for e in sweep.events(trial.record.runs[-1 - generation]) if "start" in e), None)
            if first is not None:
                assert first["start"] == 1000 * copy.kimg and first["sha"] == copy.sha256
                num += 1
    return num


@pytest.mark.cluster
def test_a_killed_asha_sweep_continues(tmp_path):
    sweep = ToySweep(tmp_path, "asha", "random", 5)
    sweep.kill_when(lambda: any(trial.state == "stopped" for trial in sweep.trials().values()))
    ended = {n: trial.record for n, trial in sweep.trials().items() if trial.state != "open"}
    sweep.run()
    sweep.check(5)
    assert {n: sweep.trials()[n].record for n in ended} == ended


@pytest.mark.cluster
def test_a_killed_pbt_sweep_continues(tmp_path):
    sweep = ToySweep(tmp_path, "pbt", "random", 4)
    sweep.kill_when(lambda: any(trial.record.copies for trial in sweep.trials().values()))
    copies = {n: trial.record.copies for n, trial in sweep.trials().items()}
    sweep.run()
    sweep.check(4)
    for number, before in copies.items():
        assert sweep.trials()[number].record.copies[: len(before)] == before
    assert copies_are_exact(sweep)


@pytest.mark.cluster
@pytest.mark.parametrize(("scheduler", "search"), [("asha", "random"), ("pbt", "random"), ("asha", "optuna")])
def test_ten_kills_at_random_moments(tmp_path, scheduler, search):
    """A sweep of 16 trials, two at once; a start takes some ten seconds, so kills fall into starts, ticks and ends."""
    sweep, rng = ToySweep(tmp_path, scheduler, search, 16, tick_sec=1.0), random.Random(7)
    while sweep.num_kills < 10 and sweep.kill_after(rng.uniform(8, 25)):
        pass
    assert sweep.num_kills == 10, "the sweep ended before"
    sweep.run(400)
    sweep.check(16)
    if scheduler == "pbt":
        assert copies_are_exact(sweep)


@pytest.mark.cluster
def test_more_samples_continue_a_finished_sweep(tmp_path):
    sweep = ToySweep(tmp_path, "asha", "optuna", 3)
    sweep.run()
    before = {n: trial.record for n, trial in sweep.trials().items()}
    ticks = sweep.num_ticks()
    sweep.words[3] = "5"
    sweep.run()
    sweep.check(5)
    assert {n: sweep.trials()[n].record for n in before} == before
    assert sum("tick" in e for n in before for e in sweep.events(f"trial-{n:03d}")) == ticks


@pytest.mark.cluster
def test_asked_to_stop_a_sweep_stores_everything_and_the_same_command_continues(tmp_path):
    sweep = ToySweep(tmp_path, "asha", "random", 3, tick_sec=1.0)
    process = sweep.start()
    try:
        while sweep.num_ticks() < 3:
            assert process.poll() is None, sweep.log.read_text()
            time.sleep(0.1)
        (sweep.folder / "STOP").touch()
        assert process.wait(60) == 0, sweep.log.read_text()
    finally:
        sweep.end(process)
    assert any(trial.state == "open" for trial in sweep.trials().values())
    sweep.run()
    sweep.check(3)
