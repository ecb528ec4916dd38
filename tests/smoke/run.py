"""A short check of the commands on whatever Ray is on the path: a training, its continuation, a sweep.

    pip install --no-deps --target ray-2.59 'ray==2.59.*'
    PYTHONPATH=ray-2.59 python tests/smoke/run.py          # the oldest supported version

Exits with 0, or with the log of the command that failed.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from support.jobs import Job, rows_without_times, small_model, write_pictures  # noqa: E402

COMMAND_SEC = 300
"""A command that takes longer hangs."""
SPACE = "loss.r1_gamma: {loguniform: [1, 10]}\n"


def train(storage: Path, images: Path) -> None:
    """Two workers train from nothing to 160 images."""
    text = run_job(storage, "train", "config-f", str(images), *small_model(), *TOY, "--train.total_kimg", "0.16")
    check("starting a new run" in text, text)
    check([row["Progress/kimg"] for row in rows_without_times(storage / "toy")][-1] == 0.16, text)


def resume(storage: Path, images: Path) -> None:
    """The same command with a larger total continues to 320 images; each tick is stored once."""
    before = rows_without_times(storage / "toy")
    text = run_job(storage, "train", "config-f", str(images), *small_model(), *TOY, "--train.total_kimg", "0.32")
    check("continuing at 0.16 kimg" in text, text)
    rows = rows_without_times(storage / "toy")
    check(rows[: len(before)] == before, text)
    check([row["Progress/tick"] for row in rows] == list(range(len(rows))), text)
    check(rows[-1]["Progress/kimg"] == 0.32, text)
    check((storage / "toy" / "network-final.safetensors").exists(), text)


def sweep(storage: Path, images: Path) -> None:
    """Two trials of one worker each run to the end."""
    space = storage / "space.yaml"
    space.write_text(SPACE)
    words = [*small_model(), *SWEEP, "--train.total_kimg", "0.16"]
    text = run_job(storage, "tune", str(space), "config-f", str(images), *words)
    with open(storage / "sweep" / "trials.csv") as file:
        trials = list(csv.DictReader(file))
    check(len(trials) == 2 and all(float(trial["kimg"]) == 0.16 for trial in trials), text)
    check((storage / "sweep" / "best.yaml").exists(), text)


TOY = ["--run.name", "toy", "--cluster.num_workers", "2"]
SWEEP = [
    "--samples", "2", "--scheduler", "fifo", "--objective", "Loss/scores/real", "--run.name", "sweep",
    "--cluster.num_workers", "1", "--cluster.cpus_per_worker", "1",
]  # fmt: skip
STEPS: tuple[Callable[[Path, Path], None], ...] = (train, resume, sweep)


def run_job(storage: Path, name: str, *words: str) -> str:
    """The output of a command that must succeed."""
    job = Job(name, *words, storage=storage, log=storage / "log")
    status = job.wait(COMMAND_SEC)
    check(status == 0, f"{name} exited with {status}:\n{job.text()}")
    return job.text()


def check(condition: bool, text: str) -> None:
    if not condition:
        raise AssertionError(text)


def main() -> None:
    parser = argparse.ArgumentParser(description="Trains, continues and sweeps a toy with the Ray on the path.")
    parser.add_argument("steps", nargs="*", help="train, resume, sweep; default: all, in this order")
    chosen = parser.parse_args().steps
    import ray

    print(f"Ray {ray.__version__} from {Path(ray.__file__).parent}")
    with tempfile.TemporaryDirectory() as folder:
        storage = Path(folder)
        images = write_pictures(storage / "images")
        for step in STEPS:
            if chosen and step.__name__ not in chosen:
                continue
            began = time.monotonic()
            step(storage, images)
            print(json.dumps({"step": step.__name__, "sec": round(time.monotonic() - began, 1)}), flush=True)


if __name__ == "__main__":
    main()
