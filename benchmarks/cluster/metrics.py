"""Benchmark `metrics`: blocks in two tasks against one, and a training with a metric on the other core."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.cluster.overhead import Runs, is_filled
from benchmarks.command import Bars, Common, Figures
from benchmarks.results import at_least
from stylegan_ray.config import ConfigError, RunConfig
from stylegan_ray.cores import num_cores
from stylegan_ray.data import open_dataset
from stylegan_ray.metrics.blocks import BlockWorker
from stylegan_ray.metrics.compute import available_detectors, weights_of
from stylegan_ray.metrics.compute import measure as measured
from stylegan_ray.metrics.names import parse_metrics
from stylegan_ray.metrics.reals_cache import RealsCache
from stylegan_ray.run_folder import METRICS, TICKS
from stylegan_ray.train.metrics import plan_of
from stylegan_ray.train.state import TrainState

TICK_KIMG = 0.5
LEAST_TICKS = 5
"""Of each kind, for a median."""


@dataclass(frozen=True)
class Options(Common):
    """Takes a metric in one and in two one-thread tasks, in turns; then trains with one beside it now and then.

    Takes every --section.key of the train command. Both parts need two idle cores.
    """

    metric: str = "fid5k_tiny"
    """What is taken in tasks."""
    repeats: int = 3
    """How often it is taken by one task and by two."""
    beside: str = "fid20k_tiny"
    """What is taken beside the training; it should take several ticks of half a kimg, and fewer than there are."""
    ticks: int = 9
    """It is taken every so many ticks."""
    train_repeats: int = 1
    """How often there is such a training."""
    kimg: float = 24.0
    """Length of a training."""


def measure(options: Options, cfg: RunConfig) -> tuple[Figures, Bars]:
    """Seconds of one and two tasks, images per second of the training; the bars of those parts that were run."""
    if num_cores() < 2:
        raise ConfigError(f"this benchmark needs two cores, and there is {num_cores()}")
    figures: Figures = {"preset": cfg.run.preset, "cores": num_cores(), "metric": options.metric}
    bars: Bars = []
    if options.repeats:
        figures |= scaling(options, cfg)
        bars.append(at_least("two tasks / one task", figures["speedup"], 1.7))
    if options.train_repeats:
        figures |= training(options, cfg)
        bars.append(at_least("img_s_beside / img_s_alone", figures["img_s_beside"] / figures["img_s_alone"], 0.93))
    return figures, bars


def scaling(options: Options, cfg: RunConfig) -> Figures:
    """Seconds that one and two warm tasks take for the generated images; the reals are known by then."""
    from stylegan_ray.cluster.evaluate import RayRunner
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
        runners = {num: RayRunner(weights, num) for num in seconds}
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
    """Images per second of a one-thread training while a metric is taken on the other core, and while none is.

    Both come from the same run, in turns of half a minute: a machine's speed drifts by more than the bar allows.
    """
    cfg = cfg.with_overrides(
        {
            "train.total_kimg": options.kimg, "cluster.num_workers": 1, "cluster.cpus_per_worker": 1,
            "schedule.tick_kimg": TICK_KIMG, "schedule.tick_kimg_dict": {}, "train.image_snapshot_ticks": 1 << 20,
            "metrics.names": (options.beside,), "metrics.ticks": options.ticks, "metrics.placement": "async",
        }
    )  # fmt: skip
    open_dataset(cfg.data, cfg.run.seed)
    ticks: dict[str, list[float]] = {"alone": [], "beside": []}
    metric_sec = []
    with TemporaryDirectory(prefix="sgr-", ignore_cleanup_errors=True) as folder:
        runs = Runs(Path(folder), threads=1)
        for _ in range(options.train_repeats):
            seen = Arrivals()
            runs.job("beside", cfg, seen.look)
            for way, rates in rates_by_way(seen).items():
                ticks[way] += rates
            metric_sec += [row["seconds"] for row in seen.rows[METRICS]]
    if min(map(len, ticks.values())) < LEAST_TICKS:
        found = ", ".join(f"{len(rates)} {way}" for way, rates in ticks.items())
        raise ConfigError(f"too few whole ticks ({found}); give a larger --kimg, or another --ticks")
    return {
        "beside": options.beside,
        "kimg": options.kimg,
        **{f"img_s_{way}": median(rates) for way, rates in ticks.items()},
        **{f"img_s_{way}_by_tick": rates for way, rates in ticks.items()},
        "metric_sec": metric_sec,
    }


class Arrivals:
    """The rows of a run's files, and when they came, seen from outside."""

    def __init__(self) -> None:
        self.rows: dict[str, list[dict[str, Any]]] = {TICKS: [], METRICS: []}
        self.times: dict[str, list[float]] = {TICKS: [], METRICS: []}

    def look(self, run: Path) -> None:
        """Called several times a second."""
        for name, rows in self.rows.items():
            if is_filled(run / name):
                whole = (run / name).read_text().split("\n")[:-1]
                rows += map(json.loads, whole[len(rows) :])
                self.times[name] += [time.monotonic()] * (len(rows) - len(self.times[name]))


def rates_by_way(seen: Arrivals) -> dict[str, list[float]]:
    """Images per second of ticks that lie wholly inside the time of a metric or wholly outside that of any.

    That time lasts from the tick that asks for it to its row, the start of its process included. What comes before
    the end of the first one is not counted: there the training warms up.
    """
    ended_at = dict(zip((row["Progress/kimg"] for row in seen.rows[TICKS]), seen.times[TICKS], strict=True))
    busy = [
        (ended_at[row["kimg"]], came) for row, came in zip(seen.rows[METRICS], seen.times[METRICS], strict=True)
        if row["kimg"] in ended_at
    ]  # fmt: skip
    rates: dict[str, list[float]] = {"alone": [], "beside": []}
    since = min(seen.times[METRICS], default=math.inf)
    for begin, end, row in zip(seen.times[TICKS], seen.times[TICKS][1:], seen.rows[TICKS][1:], strict=False):
        if begin < since:
            continue
        rate = 1000 / row["Timing/sec_per_kimg"]
        if any(first <= begin and end <= last for first, last in busy):
            rates["beside"].append(rate)
        elif all(end <= first or last <= begin for first, last in busy):
            rates["alone"].append(rate)
    return rates
