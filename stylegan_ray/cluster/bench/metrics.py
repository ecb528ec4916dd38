"""Benchmark `metrics`: blocks in two tasks against one, and a training with a metric on the other core."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from stylegan_ray.bench.command import Bars, Common, Figures
from stylegan_ray.bench.results import at_least, cores
from stylegan_ray.cluster.bench.overhead import Rows, Runs, images_per_sec, steady
from stylegan_ray.config import ConfigError, RunConfig
from stylegan_ray.data import open_dataset
from stylegan_ray.metrics.blocks import BlockWorker
from stylegan_ray.metrics.compute import available_detectors, weights_of
from stylegan_ray.metrics.compute import measure as measured
from stylegan_ray.metrics.names import parse_metrics
from stylegan_ray.metrics.reals_cache import RealsCache
from stylegan_ray.train.measuring import plan_of
from stylegan_ray.train.state import TrainState


@dataclass(frozen=True)
class Options(Common):
    """Takes a metric in one and in two one-thread tasks, in turns; then trains with and without one beside it.

    Takes every --section.key of the train command. Both parts need two idle cores.
    """

    metric: str = "fid5k_tiny"
    """What is taken in tasks."""
    repeats: int = 3
    """How often it is taken by one task and by two."""
    beside: str = "fid50k_tiny"
    """What is taken beside the training at every tick; it should take longer than a tick."""
    train_repeats: int = 2
    """How often the training is run with and without it."""
    kimg: float = 6.0
    """Length of a training. Its first two ticks are not counted."""


def measure(options: Options, cfg: RunConfig) -> tuple[Figures, Bars]:
    """Seconds of one and two tasks, images per second of the training; the bars of those parts that were run."""
    if cores() < 2:
        raise ConfigError(f"this benchmark needs two cores, and there is {cores()}")
    figures: Figures = {"preset": cfg.run.preset, "cores": cores(), "metric": options.metric}
    bars: Bars = []
    if options.repeats:
        figures |= scaling(options, cfg)
        bars.append(at_least("two tasks / one task", figures["speedup"], 1.7))
    if options.train_repeats:
        figures |= training(options, cfg)
        bars.append(at_least("img_s_beside / img_s_alone", figures["img_s_beside"] / figures["img_s_alone"], 0.97))
    return figures, bars


def scaling(options: Options, cfg: RunConfig) -> Figures:
    """Seconds that one and two warm tasks take for the generated pictures; the reals are known by then."""
    from stylegan_ray.cluster.block_tasks import OnRay
    from stylegan_ray.cluster.resources import joined

    dataset = open_dataset(cfg.data, cfg.run.seed)
    state = TrainState.create(cfg, dataset.resolution, dataset.num_channels, dataset.label_size)
    specs = tuple(parse_metrics([options.metric]))
    weights, missing = weights_of(specs)
    if missing:
        raise ConfigError(" ".join(missing.values()))
    worker = BlockWorker(replace(plan_of(state, cfg), specs=specs), state.G_ema, dataset, available_detectors(specs)[0])
    cache, seconds, values = RealsCache(), {1: [], 2: []}, set()
    with joined(cfg.with_overrides({"cluster.num_workers": 1}), print, 2):
        runners = {num: OnRay(weights, num) for num in seconds}
        measured(worker, cache, run=runners[2])  # loads what the processes need, and the reals
        for num in list(seconds) * options.repeats:
            began = time.monotonic()
            values |= {value.value for value in measured(worker, cache, run=runners[num])}
            seconds[num].append(time.monotonic() - began)
    return {
        "sec_one_task": seconds[1],
        "sec_two_tasks": seconds[2],
        "speedup": median(seconds[1]) / median(seconds[2]),
        "different_values": len(values),
        "pictures": specs[0].num_gen,
    }


def training(options: Options, cfg: RunConfig) -> Figures:
    """Images per second of a one-thread training alone and with a metric task on the other core, in turns."""
    cfg = cfg.with_overrides(
        {
            "train.total_kimg": options.kimg, "cluster.num_workers": 1, "cluster.cpus_per_worker": 1,
            "metrics.names": (), "metrics.ticks": 1, "metrics.placement": "async",
        }
    )  # fmt: skip
    open_dataset(cfg.data, cfg.run.seed)
    rows: list[dict[str, Any]] = []
    with TemporaryDirectory(prefix="sgr-", ignore_cleanup_errors=True) as folder:
        runs = Runs(Path(folder), threads=1)
        for _ in range(options.train_repeats):
            runs.job("alone", cfg)
            name = f"run{len(runs.first_step_sec)}"
            runs.job("beside", cfg.with_overrides({"metrics.names": (options.beside,)}))
            rows += map(json.loads, (Path(folder) / "runs" / name / "metrics.jsonl").read_text().splitlines())
    rates = {way: [images_per_sec(rows) for rows in of_way] for way, of_way in runs.rows.items()}
    return {
        "beside": options.beside,
        "kimg": options.kimg,
        **{f"img_s_{way}": median(values) for way, values in rates.items()},
        **{f"img_s_{way}_by_repeat": values for way, values in rates.items()},
        "metric_sec": [row["seconds"] for row in rows],
        "metric_kimg": [row["kimg"] for row in rows],
        "measured_sec": [
            ticks[-1]["Timing/total_sec"] - steady(ticks)[0]["Timing/total_sec"] for ticks in runs.rows["beside"]
        ],
    }


def measured_sec(ticks: Rows) -> float:
    """Seconds over which images are counted."""
    first, *_, last = steady(ticks)
    return last["Timing/total_sec"] - first["Timing/total_sec"]
