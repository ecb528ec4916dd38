"""Benchmark `soak`: a run of hours with snapshots, metrics and resumes, and whether anything of it grows."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from matplotlib.figure import Figure

from benchmarks.cluster.local_cluster import TRAINING_WORKER, command_of, descendants, is_alive, kill, wait_for
from benchmarks.command import Bars, Common, Figures
from benchmarks.results import at_most
from benchmarks.slopes import Growth, Lifetime, growth, growth_across
from stylegan_ray.config import ConfigError, RunConfig
from stylegan_ray.jsonl import jsonl_rows
from stylegan_ray.run_folder import CHECKPOINTS, METRICS, STOP, TICKS

SAMPLES, PLOT = "soak.jsonl", "soak.png"
NAME = "soak"
"""Of the run."""
MOST_PERCENT = 1.0
"""Growth an hour that is allowed."""
SEC_TO_GO = 15.0
"""How long after the end of the command its processes may live."""
MOST_SEC = 900.0
LATE, MOST_LATE_STARTS = "Ray did not start on this machine", 5
DRIVER = "driver"
DAEMONS = {
    "gcs_server": "gcs_server", "raylet/raylet": "raylet", "dashboard/agent.py": "agent",
    "dashboard/dashboard.py": "dashboard", "log_monitor.py": "log_monitor", "autoscaler/_private/monitor.py": "monitor",
    "runtime_env/agent": "runtime_env_agent",
}  # fmt: skip
"""Ray's daemons by a part of their command line."""
IDLE = "ray::IDLE"
RAYS_OWN = {
    IDLE, "ray::TrainController", "ray::AutoscalingRequester", "ray::_StatsActor", "ray::SplitCoordinator",
    "ray::DashboardAgent", "ray::RuntimeEnvAgent", "ray::_AutoscalingCoordinatorActor", "ray::PlacementGroupCleaner",
    "ray::SynchronizationActor", "ray::DatasetManager",
}  # fmt: skip
"""Processes that run code of Ray alone."""
QUANTITIES = ("rss_mb", "descriptors", "threads")
"""What is measured of each process."""


@dataclass(frozen=True)
class Options(Common):
    """Trains for hours, ends the run every few minutes in one of four ways and continues it, and looks for growth.

    Takes every --section.key of the train command. --folder gets every sample (soak.jsonl) and a plot (soak.png).
    """

    hours: float = 2.0
    """How long to train."""
    resume_minutes: float = 20.0
    """How often the run is ended and continued: by a STOP file, SIGTERM, SIGKILL to a worker, SIGKILL to everything."""
    every_sec: float = 5.0
    """Time between samples."""
    least_minutes: float = 15.0
    """Shorter lifetimes are not looked at: how a process starts says nothing of leaks."""
    folder: Path = Path("soak")
    """Where the run, the samples and the plot are written."""


Row = dict[str, Any]
"""A sample: its time, disk and object store, and a list of processes."""


def measure(options: Options, cfg: RunConfig) -> tuple[Figures, Bars]:
    """The growth of every kind of process, of the object store and of what is on disk."""
    if options.hours <= 0 or options.every_sec <= 0 or options.resume_minutes <= 0:
        raise ConfigError("--hours, --every-sec and --resume-minutes must be larger than 0")
    folder = options.folder.resolve()
    if (folder / NAME).exists():
        raise ConfigError(f"--folder {options.folder} holds a run already; give another, or delete it")
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="sgr-", ignore_cleanup_errors=True) as temporary:
        soaked = Soaked(prepared(cfg, folder), folder, Path(temporary))
        rows, ends = soaked.train(options)
    figures = figures_of(rows, options.least_minutes / 60) | {
        "ends": ends,
        "processes_left": soaked.left,
        "late_starts": soaked.late_starts,
        **progress_of(folder, cfg),
    }
    draw(rows, ends).savefig(folder / PLOT, dpi=110)
    return figures, bars_of(figures)


def prepared(cfg: RunConfig, folder: Path) -> RunConfig:
    """The configuration of a run that does not end by itself, with snapshots and metrics."""
    given = {"run.name": NAME, "run.storage": str(folder), "train.total_kimg": 1e6}
    metrics = {} if cfg.metrics.names else {"metrics.names": ("fid500_tiny",)}
    return cfg.with_overrides(given | metrics)


class Soaked:
    """The train command, given again whenever it was ended."""

    def __init__(self, cfg: RunConfig, folder: Path, temporary: Path) -> None:
        self.folder, self.run, self.temporary = folder, folder / NAME, temporary
        self.log, self.config = folder / "log.txt", folder / "config.yaml"
        self.config.write_text(cfg.to_yaml())
        self.began = time.monotonic()
        self.left: list[int] = []
        """Processes that outlived a command."""
        self.late_starts = 0
        """How often Ray did not start in the 30 s that it gives itself, on a machine that others use, too."""
        self.start()

    @property
    def sec(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self.began

    def train(self, options: Options) -> tuple[list[Row], list[Row]]:
        """Every sample, and when and how the command was ended."""
        rows: list[Row] = []
        ends: list[Row] = []
        ways, next_end = cycle(WAYS), 60 * options.resume_minutes
        try:
            with open(self.folder / SAMPLES, "w") as file:
                while self.sec < 3600 * options.hours:
                    time.sleep(options.every_sec)
                    rows.append(self.sample())
                    file.write(f"{json.dumps(rows[-1])}\n")
                    file.flush()
                    if self.sec > next_end and self.num_ticks() > self.ticks_at_start:
                        ends.append({"sec": self.sec, "way": next(ways)})
                        self.end(ends[-1]["way"])
                        next_end = self.sec + 60 * options.resume_minutes
            self.end(SIGTERM, for_good=True)
        finally:
            kill([*descendants(self.process.pid), self.process.pid])
            self.process.wait()
        return rows, ends

    def start(self) -> None:
        """Gives the command; Ray's own files are written to a folder that is deleted at the end."""
        self.ticks_at_start = self.num_ticks()
        env = {**os.environ, "RAY_TMPDIR": str(self.temporary), "PYTHONUNBUFFERED": "1"}
        words = [sys.executable, "-m", "stylegan_ray.cli", "train", str(self.config)]
        with open(self.log, "ab") as out:
            self.process = subprocess.Popen(words, stdout=out, stderr=out, env=env, start_new_session=True)

    def end(self, way: str, for_good: bool = False) -> None:
        """Ends the command and gives it again; or kills a worker, which the command itself replaces."""
        self.check()
        before = [self.process.pid, *descendants(self.process.pid)]
        if way == WORKER_KILLED:
            kill([pid for pid in before if command_of(pid).startswith(TRAINING_WORKER)][:1])
            return
        if way == STOP_FILE:
            (self.run / STOP).touch()
        else:
            self.process.send_signal(signal.SIGKILL if way == DRIVER_KILLED else signal.SIGTERM)
        self.process.wait(MOST_SEC)
        with suppress(TimeoutError):
            wait_for(lambda: not any(map(is_alive, before)), "the processes of the command to end", SEC_TO_GO)
        left = [pid for pid in before if is_alive(pid)]
        self.left += left
        kill(left)
        if not for_good:
            self.start()

    def check(self) -> None:
        """Raises RuntimeError where the command has ended by itself; gives it again where Ray had no time to start."""
        if self.process.poll() is None:
            return
        words = "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])
        is_late = LATE in words and self.num_ticks() == self.ticks_at_start
        if not is_late or self.late_starts == MOST_LATE_STARTS:
            raise RuntimeError(f"training ended by itself with status {self.process.returncode}:\n{words}")
        self.late_starts += 1
        self.start()

    def num_ticks(self) -> int:
        """Ticks of the run so far."""
        stats = self.run / TICKS
        return stats.read_bytes().count(b"\n") if stats.exists() else 0

    def sample(self) -> Row:
        """What the processes of the command, its files and Ray's object store have taken."""
        self.check()
        sessions = [path for path in self.temporary.glob("ray/session_2*") if not path.is_symlink()]
        session = max(sessions, default=None)
        return {
            "sec": round(self.sec, 2), "session": session.name if session else None,
            "object_store_mb": object_store_mb(session), "disk_mb": {
                "checkpoints": disk_mb(self.run / CHECKPOINTS),
                "outputs": disk_mb(self.run) - disk_mb(self.run / CHECKPOINTS),
                "spill": sum(disk_mb(path) for path in session.glob("*spill*")) if session else 0.0,
                "ray_session": disk_mb(session) if session else 0.0,
            },
            "processes": [
                found for pid in (self.process.pid, *descendants(self.process.pid))
                if (found := process(pid, is_driver=pid == self.process.pid))
            ],
        }  # fmt: skip


STOP_FILE, SIGTERM, WORKER_KILLED, DRIVER_KILLED = "STOP file", "SIGTERM", "SIGKILL to a worker", "SIGKILL"
WAYS = (STOP_FILE, WORKER_KILLED, SIGTERM, DRIVER_KILLED)
"""How the command is ended, in turns."""


def process(pid: int, is_driver: bool) -> Row | None:
    """Title and measures of a process; None when it is gone."""
    with suppress(OSError, KeyError, IndexError):
        status = dict(
            line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines()
        )
        since = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[19]
        return {
            "id": f"{pid}@{since}", "title": DRIVER if is_driver else title(command_of(pid)),
            "rss_mb": mb(status["VmRSS"]), "shared_mb": mb(status["RssShmem"]), "threads": int(status["Threads"]),
            "descriptors": len(os.listdir(f"/proc/{pid}/fd")),
        }  # fmt: skip
    return None


def mb(words: str) -> float:
    """MiB of a line of /proc/PID/status in kB."""
    return int(words.split()[0]) / 1024


def title(command: str) -> str:
    """What kind of process has this command line: a daemon of Ray, or the actor or task that it runs."""
    for part, name in DAEMONS.items():
        if part in command:
            return name
    if match := re.match(r"ray::[\w]+", command):
        return match[0].partition("__")[0] if not match[0].startswith("ray::_") else match[0]
    return "other"


def object_store_mb(session: Path | None) -> float | None:
    """MiB in use in the object store, as the raylet writes it to its log folder every few seconds.

    None before it has, and while it writes.
    """
    try:
        text = (session / "logs" / "debug_state.txt").read_text(errors="replace") if session else ""
    except OSError:
        return None
    return store_in_use_mb(text)


def store_in_use_mb(text: str) -> float | None:
    """The part of a raylet's debug_state.txt about the object store: what it has less what is free."""
    local = text.partition("Local resources:")[2]
    found = [re.search(rf'"{word}": ?{{[^}}]*?object_store_memory: \[(\d+)', local) for word in ("total", "available")]
    if None in found:
        return None
    total, free = (int(match[1]) for match in found if match)
    return (total - free) / 1e4 / 2**20  # Ray counts in ten-thousandths


def disk_mb(path: Path) -> float:
    """MiB on disk below a folder."""
    blocks = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with suppress(OSError):
                blocks += os.lstat(os.path.join(folder, name)).st_blocks
    return blocks * 512 / 2**20


def figures_of(rows: Sequence[Row], least_hours: float) -> Figures:
    """A fit for each kind of process and quantity, for long lifetimes alone, and for what is shared; and a summary."""
    lives = {
        key: samples for key, samples in lifetimes_of(rows).items() if samples[-1][0] - samples[0][0] >= least_hours
    }
    fits = [
        {"role": role, "is_ours": not is_rays(role), "quantity": name} | found
        for role in sorted({role for role, _ in lives})
        for name in QUANTITIES
        if (found := fit(lifetime(samples, name) for (other, _), samples in lives.items() if other == role))
    ]
    spans = defaultdict(list)
    for row in rows:
        spans[row["session"]].append(row)
    shared = {
        "object store": fit(series(span, lambda row: row["object_store_mb"]) for span in spans.values()),
        "checkpoints": fit([series(rows, lambda row: row["disk_mb"]["checkpoints"])]),
        "outputs": fit([series(rows, lambda row: row["disk_mb"]["outputs"])]),
        "ray_session": fit(series(span, lambda row: row["disk_mb"]["ray_session"]) for span in spans.values()),
    }
    return {
        "hours": rows[-1]["sec"] / 3600 if rows else 0.0, "samples": len(rows),
        "ours": {role: summary(fits, role) for role in {f["role"]: 0 for f in fits if f["is_ours"]}},
        "ray": {role: summary(fits, role) for role in {f["role"]: 0 for f in fits if not f["is_ours"]}},
        "shared": {name: f"{_said(found)} MiB" for name, found in shared.items() if found},
        "fits": fits, "long_lifetimes": list(long_lifetimes(lives)),
        "shared_fits": [{"quantity": name} | found for name, found in shared.items() if found],
        "most_spilled_mb": max((row["disk_mb"]["spill"] for row in rows), default=0.0),
    }  # fmt: skip


def summary(fits: Sequence[Row], role: str) -> str:
    """The fits of a role in one line."""
    return ", ".join(f"{found['quantity']} {_said(found)}" for found in fits if found["role"] == role)


def _said(found: Row) -> str:
    error = 100 * found["error"] / found["level"] if found["level"] else 0.0
    return f"{found['level']:.4g} ({found['percent_per_hour']:+.2f} ± {error:.2f} %/h)"


def lifetimes_of(rows: Iterable[Row]) -> dict[tuple[str, str], list[tuple[float, Row]]]:
    """The samples of each process in each of its roles, with their hours, by role and by id and earlier roles.

    Ray gives tasks to processes that wait for them, and each task loads code that stays, so a process begins another
    lifetime with its first task of another kind. Its role is its title, and while it waits the one before.
    """
    samples: dict[tuple[str, str], list[tuple[float, Row]]] = defaultdict(list)
    roles: dict[str, list[str]] = defaultdict(list)
    last: dict[str, str] = {}
    for row in rows:
        for found in row["processes"]:
            number, title = found["id"], found["title"]
            role = last[number] = last.get(number, IDLE) if title == IDLE else title
            if role not in roles[number]:
                roles[number].append(role)
            samples[role, " ".join([number, *roles[number]])].append((row["sec"] / 3600, found))
    return samples


def is_rays(role: str) -> bool:
    """Whether a process runs Ray's code alone."""
    return role in RAYS_OWN or role in DAEMONS.values() or role == "other"


def lifetime(samples: Sequence[tuple[float, Row]], quantity: str) -> Lifetime:
    """One quantity of a process over its time."""
    return [hours for hours, _ in samples], [row[quantity] for _, row in samples]


def series(rows: Sequence[Row], read: Callable[[Row], float | None]) -> Lifetime:
    """One quantity of the whole run over its time, without the samples that lack it."""
    found = [(row["sec"] / 3600, value) for row in rows if (value := read(row)) is not None]
    return [hours for hours, _ in found], [value for _, value in found]


def fit(lifetimes: Iterable[Lifetime]) -> Row | None:
    """The growth of lifetimes as figures; None where all are too short."""
    several = [found for found in lifetimes if len(found[0]) > 1]
    found = growth(several)
    return None if found is None else _figures(found) | {"percent_across_starts": growth_across(several)}


def _figures(found: Growth) -> Figures:
    return {
        "level": found.level, "percent_per_hour": found.percent_per_hour,
        "certain_percent_per_hour": found.certain_percent_per_hour, "per_hour": found.per_hour, "error": found.error,
        "lifetimes": found.lifetimes, "lifetime_hours": found.hours,
    }  # fmt: skip


def long_lifetimes(lives: Mapping[tuple[str, str], list[tuple[float, Row]]]) -> Iterable[Figures]:
    """The RSS of each of our processes alone: one of several cannot hide its leak."""
    for (role, number), samples in lives.items():
        if not is_rays(role) and (found := growth([lifetime(samples, "rss_mb")])) is not None:
            yield {"role": role, "id": number, **_figures(found)}


def progress_of(folder: Path, cfg: RunConfig) -> Figures:
    """How far the run came."""
    run = folder / NAME
    ticks = jsonl_rows((run / TICKS).read_bytes()) if (run / TICKS).exists() else []
    kimg = ticks[-1]["Progress/kimg"] if ticks else 0.0
    return {
        "kimg": kimg, "iterations": round(1000 * kimg / cfg.schedule.minibatch_size), "ticks": len(ticks),
        "snapshots": len(list(run.glob("network-snapshot-*"))),
        "metrics": len((run / METRICS).read_bytes().splitlines()) if (run / METRICS).exists() else 0,
    }  # fmt: skip


def bars_of(figures: Figures) -> Bars:
    """The verdict: RSS of our processes by its slope, everything else by growth that is not by chance."""
    bars = []
    for found in (found for found in figures["fits"] if found["is_ours"]):
        key = "percent_per_hour" if found["quantity"] == "rss_mb" else "certain_percent_per_hour"
        bars.append(at_most(f"{found['role']}: {found['quantity']}, % an hour", found[key], MOST_PERCENT))
    alone = [found["certain_percent_per_hour"] for found in figures["long_lifetimes"]]
    if alone:
        bars.append(at_most("RSS of one process alone, % an hour", max(alone), MOST_PERCENT))
    for found in figures["shared_fits"]:
        if found["quantity"] in ("object store", "checkpoints"):
            bars.append(at_most(f"{found['quantity']}, % an hour", found["certain_percent_per_hour"], MOST_PERCENT))
    bars.append(at_most("spilled, MiB", figures["most_spilled_mb"], 0))
    bars.append(at_most(f"processes after {SEC_TO_GO:g} s", len(figures["processes_left"]), 0))
    return bars


def draw(rows: Sequence[Row], ends: Sequence[Row]) -> Figure:
    """Memory, descriptors and threads of every process, the object store and what is on disk, over time."""
    figure = Figure(figsize=(11, 12), layout="constrained")
    panels = figure.subplots(4, 1, sharex=True)
    lives = lifetimes_of(rows)
    roles = sorted({role for role, _ in lives}, key=lambda role: (is_rays(role), role))
    for panel, quantity in zip(panels, QUANTITIES, strict=False):
        for (role, _), samples in lives.items():
            hours, values = lifetime(samples, quantity)
            style = ":" if is_rays(role) else "-"
            panel.plot(hours, values, style, color=f"C{roles.index(role) % 10}", linewidth=1.2)
        panel.set_ylabel({"rss_mb": "RSS in MiB"}.get(quantity, quantity))
    for name in ("checkpoints", "outputs", "spill", "ray_session"):
        panels[3].plot(*series(rows, lambda row, name=name: row["disk_mb"][name]), label=f"disk: {name}")
    panels[3].plot(*series(rows, lambda row: row["object_store_mb"]), label="object store")
    panels[3].set_ylabel("MiB")
    panels[3].set_xlabel("hours; dashed: the command was ended and continued")
    panels[3].legend(fontsize=8, ncols=5)
    for panel in panels:
        panel.set_ylim(bottom=0)
        for end in ends:
            panel.axvline(end["sec"] / 3600, color="0.7", linestyle="--", linewidth=0.8)
    handles = [
        panels[0].plot([], [], ":" if is_rays(role) else "-", color=f"C{i % 10}")[0] for i, role in enumerate(roles)
    ]
    figure.legend(handles, roles, loc="outside upper center", ncols=4, fontsize=8)
    return figure
