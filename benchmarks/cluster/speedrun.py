"""Benchmark `speedrun`: how long training takes until its images reach an FID, over several seeds."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks import step
from benchmarks.cluster.overhead import MOST_SEC, TRAIN, Process
from benchmarks.command import Bars, Common, Figures
from benchmarks.results import at_most, commit
from stylegan_ray.config import ConfigError, RunConfig
from stylegan_ray.data import open_dataset
from stylegan_ray.jsonl import rows_so_far
from stylegan_ray.metrics.plot import write_plots
from stylegan_ray.metrics.rows import Row
from stylegan_ray.run_folder import METRICS, TICKS
from stylegan_ray.storage import Storage

METRIC = "fid5k_tiny"
EVERY_KIMG = 2.0
LOOK_SEC = 0.5
NOT_REACHED = "not reached"
STANDARD_RATE = 100.0
"""Images per second of the standard machine, for which seconds are scaled."""


@dataclass(frozen=True)
class Options(Common):
    """Trains with several seeds until fid5k_tiny of G_ema is low enough, and says after how many seconds and kimg.

    The clock is that of the training: `Timing/total_sec` less the maintenance, in which metrics are computed and images
    are written. A seed ends at the last FID or at the cap. FIDs are against all images, not mirrored. Takes every
    --section.key of the train command.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    """Values of run.seed."""
    fids: tuple[float, ...] = (34.0, 20.0, 12.0)
    """The first value of fid5k_tiny at or below each counts."""
    cap_sec: float = 1800.0
    """Training time after which a seed has not reached the rest."""
    folder: Path | None = None
    """Where runs are kept, so that the same command continues; null: a temporary folder."""
    threads: int = 1
    """Threads of the training step that measures the speed of the machine in the same sitting."""


def measure(options: Options, cfg: RunConfig) -> tuple[Figures, Bars]:
    """Seconds and kimg until each FID by seed, their medians, and the curve of each seed."""
    if not options.seeds or not options.fids:
        raise ConfigError("--seeds and --fids: give at least one of each")
    cfg = cfg.with_overrides(
        {
            "metrics.names": [METRIC], "metrics.ticks": 1, "metrics.placement": "inline", "metrics.num_images": None,
            "metrics.all_images": cfg.data.subset is not None, "train.total_kimg": 1e6,
            "schedule.tick_kimg": EVERY_KIMG, "schedule.tick_kimg_dict": {},
        }
    )  # fmt: skip
    if cfg.data.mirror_augment:
        raise ConfigError("data.mirror_augment: the FID would be one against mirrored images, too; leave it out")
    open_dataset(cfg.data, cfg.run.seed)
    with TemporaryDirectory(prefix="sgr-", ignore_cleanup_errors=True) as temporary:
        folder = options.folder or Path(temporary)
        curves = {seed: run(cfg, seed, options, folder) for seed in options.seeds}
        if options.folder is not None:
            write_plots(
                {f"seed {seed}": rows_of(curve) for seed, curve in curves.items()}, Storage.at(folder), "speedrun"
            )
    return figures_of(curves, options)


def run(cfg: RunConfig, seed: int, options: Options, folder: Path) -> Curve:
    """The curve of one seed, whose run trains until it has ended by the rules.

    Raises ConfigError where the folder holds a run with other settings.
    """
    cfg = cfg.with_overrides({"run.seed": seed, "run.name": name_of(seed), "run.storage": str(folder.absolute())})
    place, config, speed = (folder / f"{name_of(seed)}{ending}" for ending in ("", ".yaml", ".json"))
    folder.mkdir(parents=True, exist_ok=True)
    if config.exists() and config.read_text() != cfg.to_yaml():
        raise ConfigError(f"{config} is of a run with other settings; give another --folder, or delete it and {place}")
    config.write_text(cfg.to_yaml())
    if not is_over(read_points(place), options):
        process = Process([*TRAIN, str(config)], os.environ, folder / f"{name_of(seed)}.log")
        try:
            process.sec_until(lambda: is_over(read_points(place), options), LOOK_SEC, MOST_SEC + 4 * options.cap_sec)
        finally:
            process.end()
    if not speed.exists():
        speed.write_text(json.dumps({"step_img_s": step_rate(cfg, options.threads), "commit": commit()}))
    return Curve(read_points(place), **json.loads(speed.read_text()))


def name_of(seed: int) -> str:
    return f"seed-{seed}"


@dataclass(frozen=True)
class Point:
    """One value of the metric."""

    kimg: float
    sec: float
    """Training time without maintenance."""
    fid: float


@dataclass(frozen=True)
class Curve:
    """What one seed has reached."""

    points: Sequence[Point]
    step_img_s: float
    """Images per second of the training step in float32, measured right after the training."""
    commit: str | None = None
    """That was trained."""


def rows_of(curve: Curve) -> list[Row]:
    """The curve as rows of metrics, whose time is that of the benchmark's clock."""
    return [{"metric": METRIC, "kimg": p.kimg, "total_sec": p.sec, "value": p.fid} for p in curve.points]


def read_points(run: Path) -> list[Point]:
    """The curve of a run so far: values whose tick is stored."""
    clock, by_kimg = 0.0, {}
    for row in rows_so_far(Storage.at(run), TICKS):
        clock += row["Timing/maintenance_sec"]
        by_kimg[row["Progress/kimg"]] = row["Timing/total_sec"] - clock
    return [
        Point(row["kimg"], by_kimg[row["kimg"]], row["value"])
        for row in rows_so_far(Storage.at(run), METRICS)
        if row["metric"] == METRIC and row["value"] is not None and row["kimg"] in by_kimg
    ]


def is_over(points: Sequence[Point], options: Options) -> bool:
    """Whether the last FID is reached, or the cap."""
    return bool(points) and (min(p.fid for p in points) <= min(options.fids) or points[-1].sec >= options.cap_sec)


def first_at(points: Sequence[Point], fid: float, cap_sec: float) -> Point | None:
    """The first point at or below an FID within the cap; None where there is none."""
    return next((point for point in points if point.fid <= fid and point.sec <= cap_sec), None)


def step_rate(cfg: RunConfig, threads: int) -> float:
    """Images per second of the training step in float32, the speed of this machine now."""
    given = step.Options(variants=("fast",), repeats=3, threads=threads, memory=False)
    return step.measure(given, cfg)[0]["img_s_fast"]


def figures_of(curves: Mapping[int, Curve], options: Options) -> tuple[Figures, Bars]:
    """What is printed and stored; a median over seeds is missing where fewer than half of them reached the FID."""
    figures: Figures = {
        "metric": METRIC, "seeds": list(curves), "cap_sec": options.cap_sec,
        "step_img_s": [curve.step_img_s for curve in curves.values()],
        "commits": [curve.commit for curve in curves.values()],
    }  # fmt: skip
    bars: Bars = []
    for fid in options.fids:
        found = [first_at(curve.points, fid, options.cap_sec) for curve in curves.values()]
        scaled = [
            point and point.sec * curve.step_img_s / STANDARD_RATE
            for point, curve in zip(found, curves.values(), strict=True)
        ]
        name = f"{METRIC} <= {fid:g}"
        sec = median_reached([point and point.sec for point in found])
        figures[f"{name}: sec, kimg by seed"] = [[point.sec, point.kimg] if point else NOT_REACHED for point in found]
        figures[f"{name}: median sec"] = sec
        figures[f"{name}: median kimg"] = median_reached([point and point.kimg for point in found])
        figures[f"{name}: median sec at {STANDARD_RATE:g} images/s"] = median_reached(scaled)
        bars.append(at_most(f"median seconds until {name}", sec, options.cap_sec))
    figures["curves"] = {
        str(seed): [[point.kimg, round(point.sec, 2), round(point.fid, 3)] for point in curve.points]
        for seed, curve in curves.items()
    }
    return figures, bars


def median_reached(values: Sequence[float | None]) -> float | str:
    """The median over seeds, of which those that are None come last."""
    middle = median([float("inf") if value is None else value for value in values])
    return middle if middle < float("inf") else NOT_REACHED
