"""Runs the job files as a user does, each in a process namespace of its own where the machine allows it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[2]


def small_model() -> list[str]:
    """Options that make a network of a few thousand parameters."""
    keys = {
        "model.z_dim": 8, "model.w_dim": 8, "model.mapping_fmaps": 8, "model.mapping_layers": 2,
        "model.fmap_base": 32, "model.fmap_max": 8, "schedule.minibatch_size": 8, "schedule.minibatch_gpu": 2,
        "schedule.minibatch_repeats": 2, "schedule.tick_kimg": 0.064, "schedule.tick_kimg_dict": "{}",
        "train.total_kimg": 0.32, "train.grid_size": "[4, 2]", "train.image_snapshot_ticks": 2,
    }  # fmt: skip
    return [word for key, value in keys.items() for word in (f"--{key}", str(value))]


def write_pictures(folder: Path, num: int = 20, side: int = 8) -> Path:
    """Random pictures in two sub-folders."""
    rng = np.random.default_rng(3)
    for i in range(num):
        path = folder / ("cats" if i % 2 else "dogs") / f"{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(path)
    return folder


def isolated(command: list[str]) -> list[str]:
    """The command with a process namespace around it, so that killing it kills all that it started."""
    unshare = ["unshare", "-p", "-f", "--mount-proc", "--kill-child"]
    allowed = shutil.which("unshare") and not subprocess.run([*unshare, "true"], capture_output=True).returncode
    return [*unshare, *command] if allowed else command


class Job:
    """One job in the background."""

    def __init__(self, job: str, *options: str, storage: Path, log: Path) -> None:
        self.log = log
        env = {**os.environ, "STYLEGAN_RAY_STORAGE": str(storage), "PYTHONUNBUFFERED": "1"}
        command = isolated([sys.executable, str(ROOT / "jobs" / f"{job}.py"), *options])
        with open(log, "w") as out:
            self.process = subprocess.Popen(
                command, stdout=out, stderr=subprocess.STDOUT, env=env, start_new_session=True
            )

    def wait(self, seconds: float = 180) -> int:
        """The exit status; a job that takes longer is killed and fails the test with its log."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"still running after {seconds} s:\n{self.text()}") from None

    def wait_for(self, condition, seconds: float = 180) -> None:
        """Returns when the condition holds; fails when the job ends first or it takes too long."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, f"ended before:\n{self.text()}"
            assert time.monotonic() < deadline, f"waited {seconds} s:\n{self.text()}"
            time.sleep(0.05)

    def kill(self) -> None:
        """SIGKILL to everything at once."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def text(self) -> str:
        return self.log.read_text()


def rows_without_times(run: Path) -> list[dict]:
    """stats.jsonl without what depends on the clock on the wall."""
    rows = [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith(("Timing/", "Resources/"))} for row in rows]


def metrics_without_times(run: Path) -> list[dict]:
    """metrics.jsonl without what depends on the clock on the wall."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in ("seconds", "time", "total_sec")} for row in rows]


def newest_tick(run):
    rows = (run / "stats.jsonl").read_bytes().splitlines(keepends=True) if (run / "stats.jsonl").exists() else []
    return max((json.loads(row)["Progress/tick"] for row in rows if row.endswith(b"\n")), default=-1)
