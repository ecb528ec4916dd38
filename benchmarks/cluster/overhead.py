"""Benchmark `overhead`: the job, run as a user runs it, against the training loop alone, alternately."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

from benchmarks.command import Bars, Common, Figures
from benchmarks.results import at_least, at_most
from stylegan_ray.config import ConfigError, RunConfig
from stylegan_ray.cores import num_cores
from stylegan_ray.data import open_dataset
from stylegan_ray.run_folder import FINAL_NETWORK, LOG, RUN_FILE, TICKS

Rows = Sequence[dict[str, Any]]
TRAIN = [sys.executable, "-c", "from stylegan_ray.cli import main; main()", "train"]
BARE = [sys.executable, "-m", "benchmarks.bare"]
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
MOST_SEC = 3600.0
"""The limit of one run."""
LONGEST_SOCKET_FOLDER = 40
"""Ray's sockets are stored in its temporary folder, and the path of a socket has about 100 characters at most."""


@dataclass(frozen=True)
class Options(Common):
    """Trains with the job and with the loop alone, alternately, each in processes of its own, on prepared data.

    Takes every --section.key of the train command; each run has one worker.
    """

    repeats: int = 3
    """How often each way of training is run."""
    kimg: float = 12.0
    """Length of a run. Its first two ticks are not counted, where there are more than two."""
    threads: int | None = None
    """Threads of the worker and of the loop alone; null: cluster.cpus_per_worker, or all cores."""
    first_steps: int = 5
    """How often the time to the first step is measured; runs that end there are added to the repeats."""
    subset: int = 200
    """Images of one more run, whose passes end often."""


def measure(options: Options, cfg: RunConfig) -> tuple[Figures, Bars]:
    """Images per second of job and loop, the share of time the job waits for data, and the time to its first step."""
    threads = options.threads or int(cfg.cluster.cpus_per_worker or num_cores())
    cfg = cfg.with_overrides(
        {
            "train.total_kimg": options.kimg,
            "cluster.num_workers": 1,
            "cluster.cpus_per_worker": threads,
        }
    )
    small = cfg.with_overrides({"data.subset": options.subset})
    for prepared in (cfg, small):
        open_dataset(prepared.data, prepared.run.seed)
    with TemporaryDirectory(prefix="sgr-", ignore_cleanup_errors=True) as folder:
        runs = Runs(Path(folder), threads)
        for _ in range(options.repeats):
            runs.bare(cfg)
            runs.job("job", cfg)
            runs.bare(cfg, default_threads=True)
        runs.job("small_set", small)
        first_step = cfg.with_overrides({"train.total_kimg": cfg.schedule.minibatch_size / 1000})
        for _ in range(options.first_steps - options.repeats):
            runs.job("first_step", first_step)
    figures = {
        "preset": cfg.run.preset,
        "kimg": options.kimg,
        "cores": num_cores(),
        "processes": 1,
        "small_set": options.subset,
        **figures_of(runs, options.first_steps),
    }
    return figures, bars_of(figures)


class Runs:
    """Runs training in processes of its own and keeps the rows of ticks by way of training."""

    def __init__(self, folder: Path, threads: int) -> None:
        self.folder, self.threads = folder, threads
        self.rows: dict[str, list[Rows]] = {}
        self.threads_of: dict[str, int] = {}
        self.first_step_sec: list[float] = []

    def bare(self, cfg: RunConfig, default_threads: bool = False) -> None:
        """The loop alone, with as many threads as the job, or as many as torch chooses."""
        way = "bare_default_threads" if default_threads else "bare"
        env = {key: value for key, value in os.environ.items() if key not in THREAD_VARIABLES}
        if not default_threads:
            env |= dict.fromkeys(THREAD_VARIABLES, str(self.threads))
        run = Process(
            [*BARE, self._config(way, cfg), *([] if default_threads else [str(self.threads)])], env, self._log
        )
        run.wait()
        result = json.loads(run.log.read_text().splitlines()[-1])
        self._keep(way, result["threads"], result["rows"])

    def job(self, way: str, cfg: RunConfig, look: Callable[[Path], None] | None = None) -> None:
        """The job in a folder of its own, and the time from its command to its first row.

        That row comes with the first group of `schedule.minibatch_repeats` iterations. From there on `look` is called
        with the run's folder a few times a second, until the run has written its final network.
        """
        name = f"run{len(self.first_step_sec)}"
        cfg = cfg.with_overrides({"run.storage": str(self.folder / "runs"), "run.name": name})
        env = {**os.environ, "TMPDIR": str(self.folder)}
        if len(str(self.folder)) < LONGEST_SOCKET_FOLDER:
            env["RAY_TMPDIR"] = str(self.folder)
        place = self.folder / "runs" / name
        run = Process([*TRAIN, self._config(way, cfg)], env, self._log)
        self.first_step_sec.append(run.sec_until(lambda: is_filled(place / TICKS)))
        if look is not None:
            run.sec_until(lambda: look(place) or (place / FINAL_NETWORK).exists(), every_sec=0.25)
        run.wait()
        rows = [json.loads(line) for line in (place / TICKS).read_text().splitlines()]
        self._keep(way, json.loads((place / RUN_FILE).read_text())["workers"]["threads"], rows)

    def _config(self, way: str, cfg: RunConfig) -> str:
        path = self.folder / f"{way}.yaml"
        path.write_text(cfg.to_yaml())
        return str(path)

    @property
    def _log(self) -> Path:
        return self.folder / LOG

    def _keep(self, way: str, threads: int, rows: Rows) -> None:
        if threads != self.threads and way != "bare_default_threads":
            raise RuntimeError(f"{way} ran on {threads} threads instead of {self.threads}; the rates do not compare")
        self.threads_of[way] = threads
        self.rows.setdefault(way, []).append(rows)


class Process:
    """A command in the background; its output goes to a log."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], log: Path) -> None:
        self.log, self.begun = log, time.monotonic()
        with open(log, "w") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=env)

    def sec_until(self, condition: Callable[[], bool], every_sec: float = 0.02, most_sec: float = MOST_SEC) -> float:
        """Seconds from the start until the condition holds; fails when the process ends first, or after most_sec."""
        try:
            while not condition():
                if self.process.poll() is not None or time.monotonic() - self.begun > most_sec:
                    self._fail()
                time.sleep(every_sec)
        except BaseException:
            self.end()
            raise
        return time.monotonic() - self.begun

    def wait(self) -> None:
        """Returns when the command is done; raises RuntimeError with its last lines when it failed."""
        try:
            if self.process.wait(MOST_SEC):
                self._fail()
        finally:
            self.end()

    def end(self) -> None:
        """Ends the process if it still runs: by SIGTERM, then by SIGKILL."""
        for ask in (self.process.terminate, self.process.kill):
            if self.process.poll() is None:
                ask()
                with suppress(subprocess.TimeoutExpired):
                    self.process.wait(30)

    def _fail(self) -> NoReturn:
        lines = "\n".join(self.log.read_text().splitlines()[-20:])
        raise RuntimeError(f"a measured run ended with status {self.process.poll()}:\n{lines}")


def is_filled(path: Path) -> bool:
    """Whether a file exists and is not empty."""
    return path.exists() and path.stat().st_size > 0


def figures_of(runs: Runs, first_steps: int) -> Figures:
    """Medians under the names that the bars use, and the values that they are computed from."""
    rates = {way: [images_per_sec(rows) for rows in of_way] for way, of_way in runs.rows.items() if way in COMPARED}
    waits = {way: [data_wait_share(rows) for rows in runs.rows[way]] for way in ("job", "small_set")}
    first_step_sec = runs.first_step_sec[:first_steps]
    return {
        "threads": runs.threads,
        "threads_default": runs.threads_of["bare_default_threads"],
        **{f"img_s_{way}": median(values) for way, values in rates.items()},
        "data_wait_share": median(waits["job"]),
        "data_wait_share_small_set": median(waits["small_set"]),
        "first_step_sec": median(first_step_sec),
        **{f"img_s_{way}_by_repeat": values for way, values in rates.items()},
        "data_wait_share_by_repeat": waits["job"],
        "first_step_sec_by_run": first_step_sec,
        "ticks": {way: [[shown(row) for row in rows] for rows in of_way] for way, of_way in runs.rows.items()},
    }


COMPARED = ("bare", "job", "bare_default_threads")


def shown(row: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a tick's row that the figures are computed from."""
    wanted = ("Progress/kimg", "Timing/total_sec", "Timing/sec_per_tick", "Timing/maintenance_sec")
    return {key: value for key, value in row.items() if key in wanted or key.startswith("Timing/share/")}


def steady(rows: Rows) -> Rows:
    """The ticks whose ends bound the measurement; the first one ends early, the second one warms up."""
    if len(rows) < 2:
        raise ConfigError("--kimg is shorter than a tick (schedule.tick_kimg), so there is no steady state; give more")
    return rows[1:] if len(rows) > 2 else rows


def images_per_sec(rows: Rows) -> float:
    """Images shown per second from the end of the first steady tick to that of the last, with all that is between."""
    first, *_, last = steady(rows)
    kimg = last["Progress/kimg"] - first["Progress/kimg"]
    return 1000 * kimg / (last["Timing/total_sec"] - first["Timing/total_sec"])


def data_wait_share(rows: Rows) -> float:
    """The share of that time in which the loop waits for images."""
    _, *ticks = steady(rows)
    waited = sum(row["Timing/share/data"] * row["Timing/sec_per_tick"] for row in ticks)
    return waited / sum(row["Timing/sec_per_tick"] for row in ticks)


def bars_of(figures: Figures) -> Bars:
    """The bars of the job."""
    return [
        at_least("img_s_job / img_s_bare", figures["img_s_job"] / figures["img_s_bare"], 0.90),
        at_most("data_wait_share", figures["data_wait_share"], 0.03),
        at_most("data_wait_share_small_set", figures["data_wait_share_small_set"], 0.03),
        at_most("first_step_sec", figures["first_step_sec"], 30.0),
    ]
