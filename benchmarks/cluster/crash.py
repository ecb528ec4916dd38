"""Benchmark `crash`: commands that get signals at random moments leave no half files, no processes, and can go on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from PIL import Image

from benchmarks.cluster.local_cluster import command_of, descendants, is_alive, kill
from benchmarks.command import Bars, Common, Figures
from benchmarks.results import at_most, commit
from stylegan_ray.config import ConfigError, RunConfig
from stylegan_ray.data.formats.tfrecord_wire import bad_payloads, find_frames
from stylegan_ray.run_folder import COMPLETE
from stylegan_ray.storage import Storage
from stylegan_ray.train.checkpoint import read_checkpoint
from stylegan_ray.untrusted_text import parse_yaml

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL)
MARK = "STYLEGAN_RAY_CRASH"
"""A variable by which the processes of a command are known, whoever their parent is."""
SEC_TO_GO = 15.0
"""How long after the end of a command its processes may live."""
MOST_SEC = 900.0
ATTEMPTS = 3
LOOK_BACK = 4
"""The longest of so many whole commands says how long the next one may take: some use what was finished before."""
COMMANDS = (
    "train", "tune", "prepare_data", "prepare_data_tasks", "generate", "generate_tasks", "evaluate", "evaluate_tasks",
)  # fmt: skip
CONTINUED = {"train": "runs/train", "tune": "runs/tune", "generate_tasks": "many"}
"""Outputs of commands that do nothing where these are whole; they are deleted before a signal. Others write anew."""
SMALL = {
    "model.z_dim": 8, "model.w_dim": 8, "model.mapping_fmaps": 8, "model.mapping_layers": 2, "model.fmap_base": 32,
    "model.fmap_max": 8, "schedule.minibatch_size": 8, "schedule.minibatch_gpu": 4, "schedule.minibatch_repeats": 2,
    "schedule.tick_kimg": 0.064, "schedule.tick_kimg_dict": "{}", "train.grid_size": "[4, 2]", "data.resolution": 16,
}  # fmt: skip


@dataclass(frozen=True)
class Options(Common):
    """Sends SIGINT, SIGTERM, SIGHUP and SIGKILL, in turns, to commands at seeded random moments.

    The same command with the same --folder goes on where it was ended.
    """

    folder: Path = Path("crash")
    """Where the commands write, and what was found is kept."""
    commands: tuple[str, ...] = COMMANDS
    """Commands to interrupt; those with "tasks" in their names run Ray tasks, those without compute alone."""
    crashes: int = 50
    """Signals for each command."""
    seed: int = 0
    """Of the moments."""


def measure(options: Options, cfg: RunConfig) -> tuple[Figures, Bars]:
    """What was left behind after each signal; the configuration is not used, all commands are small."""
    signal.signal(signal.SIGHUP, ignore)  # commands would inherit that nohup has made it ignored
    unknown = set(options.commands) - set(words_of(options.folder))
    if unknown:
        raise ConfigError(f"--commands {' '.join(unknown)}: known are {', '.join(words_of(options.folder))}")
    options.folder.mkdir(parents=True, exist_ok=True)
    folder, notes = options.folder.resolve(), options.folder / "crashes.jsonl"
    rows = [json.loads(line) for line in notes.read_text().splitlines()] if notes.exists() else []
    needs_network = any(name.startswith(("generate", "evaluate")) for name in options.commands)
    if needs_network and not (folder / "runs" / "network").exists():
        run_whole(folder, "network")
    for name in options.commands:
        done = [row for row in rows if row["command"] == name and row["seed"] == options.seed]
        secs = [row["sec_whole"] for row in done] or [run_whole(folder, name)]
        for number in range(len(done), options.crashes):
            sec = max(secs[-LOOK_BACK:])
            rng = np.random.default_rng([options.seed, *name.encode(), number])
            for _ in range(ATTEMPTS):  # a command may be faster than the first time
                row = crash(folder, name, SIGNALS[number % len(SIGNALS)], float(rng.uniform(0, sec)))
                if not row["had_ended"]:
                    break
            rows.append(row | {"seed": options.seed, "number": number, "commit": commit()})
            secs.append(row["sec_whole"])
            notes.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
            print(json.dumps(rows[-1]), flush=True)
    ours = [row for row in rows if row["seed"] == options.seed and row["command"] in options.commands]
    return {"crashes": ours}, bars_of(ours)


def bars_of(rows: Sequence[dict[str, Any]]) -> Bars:
    silent = [row for row in rows if row["can_be_answered"] and not row["says_how_to_continue"]]
    return [
        at_most("signals after the end of the command", sum(row["had_ended"] for row in rows), 0),
        at_most("half files", sum(len(row["half_files"]) for row in rows), 0),
        at_most(f"processes after {SEC_TO_GO:g} s", sum(len(row["left"]) for row in rows), 0),
        at_most("files left after the next whole command", sum(len(row["left_over"]) for row in rows), 0),
        at_most("signals without a word how to continue", len(silent), 0),
    ]


def words_of(folder: Path) -> dict[str, list[str]]:
    """The commands, which write below the folder."""
    small = [word for key, value in SMALL.items() for word in (f"--{key}", str(value))]
    train = ["config-f", "openmoji", *small, "--train.total_kimg", "0.32"]
    network = str(folder / "runs" / "network")
    prepare = ["prepare_data", "openmoji", "--resolution", "16", "--overwrite"]
    evaluate = ["evaluate", network, "--metrics", "fid500_tiny"]
    return {
        "network": ["train", *train, "--run.name", "network"],
        "train": ["train", *train, "--run.name", "train"],
        "tune": ["tune", *train, "--run.name", "tune", "--samples", "2"],
        "prepare_data": [*prepare, str(folder / "data.zip"), "--workers", "0"],
        "prepare_data_tasks": [*prepare, str(folder / "tfrecords"), "--workers", "2"],
        "generate": ["generate", network, "--seeds", "0-499", "--outdir", str(folder / "images")],
        "generate_tasks": [
            "generate", network, "--n", "2000", "--shard", "200", "--batch", "20", "--outdir", str(folder / "many"),
            "--num-tasks", "2",
        ],
        "evaluate": [*evaluate, "--num-tasks", "0"],
        "evaluate_tasks": [*evaluate, "--num-tasks", "2", "--out", str(folder / "tasks.jsonl")],
    }  # fmt: skip


def start(folder: Path, name: str) -> tuple[subprocess.Popen[bytes], Path]:
    """Starts a command; returns it and its log."""
    log = folder / f"{name}.log"
    env = {**os.environ, "STYLEGAN_RAY_STORAGE": str(folder / "runs"), MARK: str(folder), "PYTHONUNBUFFERED": "1"}
    with open(log, "wb") as out:
        words = [sys.executable, "-m", "stylegan_ray.cli", *words_of(folder)[name]]
        return subprocess.Popen(words, stdout=out, stderr=out, env=env, start_new_session=True), log


def run_whole(folder: Path, name: str) -> float:
    """Runs a command to its end; returns the seconds. Ray gives itself 30 s to start, which a busy machine may pass."""
    said, status = "", 0
    for _ in range(ATTEMPTS):
        began = time.monotonic()
        process, log = start(folder, name)
        if not (status := process.wait(MOST_SEC)):
            return time.monotonic() - began
        said = log.read_text(errors="replace")
        if "Ray did not start" not in said:
            break
    raise RuntimeError(f"{name} ended with {status}: {said[-2000:]}")


def crash(folder: Path, name: str, number: signal.Signals, after_sec: float) -> dict[str, Any]:
    """Sends a signal to a command after a while; returns what was left, then and after the next whole command."""
    if name in CONTINUED:
        subprocess.run(["rm", "-rf", str(folder / CONTINUED[name])], check=True)
    process, log = start(folder, name)
    with suppress(subprocess.TimeoutExpired):
        process.wait(after_sec)
    started = descendants(process.pid)
    had_ended = process.poll() is not None
    can_answer = not had_ended and number != signal.SIGKILL and answers(process.pid)
    process.send_signal(number)
    sent = time.monotonic()
    process.wait(MOST_SEC)
    ended, left = time.monotonic(), processes_of(folder, started)
    while left and time.monotonic() - ended < SEC_TO_GO:
        time.sleep(0.1)
        left = processes_of(folder, started)
    left_commands = [command_of(pid) for pid in left]
    kill(left)
    said = log.read_text(errors="replace")
    half = [
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and not is_whole(folder, path)
    ]
    sec_whole = run_whole(folder, name)
    return {
        "command": name, "signal": number.name, "after_sec": after_sec, "had_ended": had_ended,
        "sec_to_end": ended - sent, "status": process.returncode, "half_files": half, "left": left_commands,
        "can_be_answered": can_answer,
        "says_how_to_continue": not process.returncode or "same command" in said or "Continue " in said,
        "left_over": list(leftovers(folder)), "sec_whole": sec_whole,
    }  # fmt: skip


def answers(pid: int) -> bool:
    """Whether a process has a handler for SIGTERM; Python, which loads the code of a command, has none at first."""
    with suppress(OSError):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        mask = next((line.split()[1] for line in lines if line.startswith("SigCgt:")), "0")
        return bool(int(mask, 16) >> (signal.SIGTERM - 1) & 1)
    return False


def processes_of(folder: Path, started: Sequence[int]) -> list[int]:
    """Processes with the mark of a folder in their environment, and those of `started` that live.

    A process that gives itself a title, as Ray's do, writes over its environment.
    """
    mark, found = f"{MARK}={folder}".encode(), set(started)
    for entry in os.listdir("/proc"):
        with suppress(OSError):
            if entry.isdigit() and mark in Path("/proc", entry, "environ").read_bytes().split(b"\0"):
                found.add(int(entry))
    return sorted(filter(is_alive, found))


def ignore(_number: int, _frame: object) -> None:
    """A handler; programs that a process starts do not inherit it."""


def leftovers(folder: Path) -> Iterator[str]:
    """Unfinished files and leases."""
    for path in folder.rglob("*"):
        if path.name.endswith((".part", ".old", ".finished")) or path.name.startswith(".lease-"):
            yield str(path.relative_to(folder))


def is_whole(folder: Path, path: Path) -> bool:
    """Whether a file under its final name can be read to its end; others and growing logs are not looked at."""
    folders = path.relative_to(folder).parts[:-1]
    of_ray = any(part.startswith(".") for part in folders) or ("tune" in folders[2:] and "trials" not in folders)
    if of_ray or path.name.startswith(".") or path.name.endswith((".part", ".log")):
        return True
    read = READERS.get(COMPLETE if path.name == COMPLETE else path.suffix)
    try:
        return read is None or read(path) is not False
    except Exception:
        return False


def read_image(path: Path) -> None:
    with Image.open(path) as image:
        image.load()


def read_tensors(path: Path) -> None:
    with safetensors.safe_open(path, "np") as file:
        for key in file.keys():
            file.get_tensor(key)


def read_rows(path: Path) -> None:
    for line in path.read_bytes().splitlines():
        json.loads(line)


def read_tar(path: Path) -> None:
    with tarfile.open(path) as archive:
        for member in archive:
            if member.isfile():
                archive.extractfile(member).read()  # type: ignore[union-attr]


def read_zip(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        return archive.testzip() is None


def read_tfrecords(path: Path) -> bool:
    content = path.read_bytes()
    frames, _ = find_frames(content, 0, len(content), path.name)
    return not bad_payloads(content, frames)


READERS: dict[str, Callable[[Path], object]] = {
    ".png": read_image,
    ".safetensors": read_tensors,
    ".json": lambda path: json.loads(path.read_bytes()),
    ".jsonl": read_rows,
    ".yaml": lambda path: bool(parse_yaml(path.read_bytes(), path.name)),
    ".tar": read_tar,
    ".zip": read_zip,
    ".tfrecords": read_tfrecords,
    COMPLETE: lambda path: read_checkpoint(Storage.at(path.parent)),
}
"""What reads a file to its end, by its ending; False or an error where it is not whole."""
