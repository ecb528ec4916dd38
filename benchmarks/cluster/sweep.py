"""Benchmark `sweep`: trials side by side against as many bare training loops side by side, one thread each."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.cluster.overhead import (
    BARE,
    LONGEST_SOCKET_FOLDER,
    THREAD_VARIABLES,
    TRAIN,
    Process,
    images_per_sec,
)
from benchmarks.command import Bars, Common, Figures
from benchmarks.results import at_least, at_most
from stylegan_ray.config import ConfigError, RunConfig
from stylegan_ray.cores import num_cores
from stylegan_ray.data import open_dataset

TUNE = [*TRAIN[:-1], "tune"]


@dataclass(frozen=True)
class Options(Common):
    """Runs trials of one worker with one thread each, and bare loops with one thread each, alternately.

    Takes every --section.key of the train command.
    """

    repeats: int = 3
    """Sweeps, each between two runs of the loops."""
    kimg: float = 8.0
    """Length of a trial, in 16 ticks. Rates are measured from the second tick of the last trial to the first end."""
    concurrent: int = 2
    """Trials, or loops, at once; needs as many cores."""


def measure(options: Options, cfg: RunConfig) -> tuple[Figures, Bars]:
    """Images per second of trials and of loops side by side, and how soon a further trial trains."""
    ticks = {"train.total_kimg": options.kimg, "schedule.tick_kimg": options.kimg / 16, "schedule.tick_kimg_dict": {}}
    cfg = cfg.with_overrides({**ticks, "cluster.num_workers": 1, "cluster.cpus_per_worker": 1})
    open_dataset(cfg.data, cfg.run.seed)
    bare: list[float] = []
    sweeps: list[SweepFigures] = []
    with TemporaryDirectory(prefix="sgr-", ignore_cleanup_errors=True) as folder:
        bare.append(bare_side_by_side(cfg, options.concurrent, Path(folder)))
        for repeat in range(options.repeats):
            sweeps.append(sweep(cfg, options.concurrent, Path(folder), f"sweep{repeat}"))
            bare.append(bare_side_by_side(cfg, options.concurrent, Path(folder)))
    # The speed of a shared machine drifts over minutes, so each sweep is held against the loops around it.
    shares = [2 * run.img_s / (before + after) for run, before, after in zip(sweeps, bare, bare[1:], strict=False)]
    starts = [run.start_sec for run in sweeps]
    figures = {
        "preset": cfg.run.preset,
        "kimg": options.kimg,
        "cores": num_cores(),
        "concurrent": options.concurrent,
        "img_s_bare": median(bare),
        "img_s_sweep": median(run.img_s for run in sweeps),
        "sweep_of_bare": median(shares),
        "further_trial_sec": median(starts),
        "further_trial_first_tick_sec": median(run.first_tick_sec for run in sweeps),
        "img_s_bare_by_repeat": bare,
        "img_s_sweep_by_repeat": [run.img_s for run in sweeps],
        "sweep_of_bare_by_repeat": shares,
        "further_trial_sec_by_repeat": starts,
    }
    return figures, bars_of(figures)


def bars_of(figures: Figures) -> Bars:
    """The bars of sweeps."""
    return [
        at_least("sweep_of_bare", figures["sweep_of_bare"], 0.85),
        at_most("further_trial_sec", figures["further_trial_sec"], 15.0),
    ]


def bare_side_by_side(cfg: RunConfig, num: int, folder: Path) -> float:
    """Images per second of bare loops together, one thread each, started at once."""
    path = folder / "bare.yaml"
    path.write_text(cfg.to_yaml())
    env = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, "1")}
    loops = [Process([*BARE, str(path), "1"], env, folder / f"bare{i}.txt") for i in range(num)]
    try:
        for loop in loops:
            loop.wait()
    finally:
        for loop in loops:
            loop.end()
    return sum(images_per_sec(json.loads(loop.log.read_text().splitlines()[-1])["rows"]) for loop in loops)


@dataclass(frozen=True)
class SweepFigures:
    """One sweep: as many trials as run at once, and a further one that takes the place of the first to end."""

    img_s: float
    """Of the trials that started together, while all of them trained."""
    start_sec: float
    """From the first end of a trial to where the further one trains."""
    first_tick_sec: float
    """To its first tick, which is a group of minibatches later."""


def sweep(cfg: RunConfig, num: int, folder: Path, name: str) -> SweepFigures:
    """Runs one trial more than run at once, all with the same values."""
    space, preset = folder / "space.yaml", folder / "trials.yaml"
    gamma = cfg.loss.r1_gamma
    space.write_text(f"loss.r1_gamma: {{choice: [{gamma}]}}\n")
    preset.write_text(cfg.with_overrides({"run.storage": str(folder / "runs"), "run.name": name}).to_yaml())
    words = ["--scheduler", "fifo", "--objective", "Loss/D/loss", "--samples", str(num + 1), "--concurrent", str(num)]
    env = {**os.environ, "TMPDIR": str(folder)}
    if len(str(folder)) < LONGEST_SOCKET_FOLDER:
        env["RAY_TMPDIR"] = str(folder)
    process = Process([*TUNE, str(space), str(preset), *words], env, folder / "sweep.txt")
    process.wait()
    return figures_of(folder / "runs" / name, num)


def figures_of(sweep: Path, num: int) -> SweepFigures:
    """The figures of a finished sweep, from the reports that Ray Tune logged and the times at which files were made."""
    reports = [reports_of(sweep, number) for number in range(num + 1)]
    end = min(own[-1]["time"] for own in reports[:num])
    ticks = [[row for row in own if "done" not in row or not row["done"]] for own in reports]
    first_image = sweep / "trials" / f"trial-{num:03d}" / "fakes_init.png"
    return SweepFigures(
        sum(images_per_sec_side_by_side(ticks[:num])),
        first_image.stat().st_mtime - end,
        ticks[num][0]["time"] - end,
    )


def reports_of(sweep: Path, number: int) -> list[dict[str, Any]]:
    """What a trial reported, in order: ticks, and last how it ended."""
    lines = (sweep / "tune" / f"trial-{number:03d}" / "result.json").read_text().splitlines()
    return [row for row in map(json.loads, lines) if "message" not in row]


def images_per_sec_side_by_side(ticks: Sequence[Sequence[Mapping[str, Any]]]) -> list[float]:
    """Of each of several trainings, from where all have two ticks behind them to where the first of them ends.

    A tick has its `kimg` and the `time` of its end. Raises ConfigError where they trained together too shortly.
    """
    since = max(own[min(1, len(own) - 2)]["time"] for own in ticks)
    until = min(own[-1]["time"] for own in ticks)
    rates = []
    for own in ticks:
        inside = [row for row in own if since <= row["time"] <= until]
        if len(inside) < 2:
            raise ConfigError(f"the runs trained side by side for {until - since:.0f} s only; give a larger --kimg")
        first, last = inside[0], inside[-1]
        rates.append(1000 * (last["kimg"] - first["kimg"]) / (last["time"] - first["time"]))
    return rates
