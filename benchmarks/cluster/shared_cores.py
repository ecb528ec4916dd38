"""Benchmark `shared_cores`: two runs at once on the cores of one machine, against one alone, by how threads wait."""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.cluster.overhead import TRAIN, Process
from benchmarks.cluster.sweep import images_per_sec_side_by_side
from benchmarks.command import Bars, Common, Figures
from benchmarks.results import at_least, at_most
from stylegan_ray.cluster.resources import SPIN, WAITING
from stylegan_ray.config import RunConfig
from stylegan_ray.cores import num_cores
from stylegan_ray.data import open_dataset
from stylegan_ray.jsonl import read_jsonl
from stylegan_ray.run_folder import TICKS
from stylegan_ray.storage import Storage

TICK_KIMG = 0.25
OURS, LIBGOMP = "ours", "libgomp"
WAYS = {OURS: {}, LIBGOMP: {"GOMP_SPINCOUNT": "300000"}, "passive": {"OMP_WAIT_POLICY": "PASSIVE"}}
"""Environments: what the job sets, what libgomp does where nothing is set, and no spinning at all."""


@dataclass(frozen=True)
class Options(Common):
    """Trains alone and with a neighbor, alternately, each run with all cores as its threads, on prepared data.

    Takes every --section.key of the train command; each run has one worker.
    """

    repeats: int = 3
    """How often each case is run."""
    kimg: float = 4.0
    """Length of a run. What counts is the time in which all have two ticks behind them and none has ended."""
    spin: tuple[int, ...] = ()
    """More values of GOMP_SPINCOUNT to try."""


def measure(options: Options, cfg: RunConfig) -> tuple[Figures, Bars]:
    """Seconds per 1000 images, alone and of two runs at once, by environment."""
    cfg = cfg.with_overrides(
        {
            "train.total_kimg": options.kimg, "cluster.num_workers": 1, "cluster.cpus_per_worker": num_cores(),
            "schedule.tick_kimg": TICK_KIMG, "schedule.tick_kimg_dict": {},
        }
    )  # fmt: skip
    open_dataset(cfg.data, cfg.run.seed)
    ways = WAYS | {f"spin {count}": {"GOMP_SPINCOUNT": str(count)} for count in options.spin}
    alone: dict[str, list[float]] = {way: [] for way in ways}
    at_once: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(options.repeats):
        for way, variables in ways.items():
            alone[way] += sec_per_kimg(cfg, variables, 1)
            at_once[way] += sec_per_kimg(cfg, variables, 2)
    figures = {"threads": num_cores(), "spin": SPIN, "sec_per_kimg_alone": alone, "sec_per_kimg_at_once": at_once}
    return figures, bars_of(figures)


def bars_of(figures: Figures) -> Bars:
    alone, at_once = (
        {way: median(values) for way, values in figures[key].items()}
        for key in ("sec_per_kimg_alone", "sec_per_kimg_at_once")
    )
    return [
        at_most("two at once over alone, sec/kimg", at_once[OURS] / alone[OURS], 2.5),
        at_least("alone: img/s over that with libgomp's own spinning", alone[LIBGOMP] / alone[OURS], 0.95),
    ]


def sec_per_kimg(cfg: RunConfig, variables: dict[str, str], num_runs: int) -> list[float]:
    """Of each of some runs that start together."""
    with tempfile.TemporaryDirectory(prefix="sgr-", ignore_cleanup_errors=True) as folder, ExitStack() as started:
        places = [Path(folder, str(number)) for number in range(num_runs)]
        runs = []
        for place in places:
            place.mkdir()
            run = cfg.with_overrides({"run.storage": str(place), "run.name": "run"})
            (place / "preset.yaml").write_text(run.to_yaml())
            runs.append(Process([*TRAIN, str(place / "preset.yaml")], environment(variables), place / "log.txt"))
            started.callback(runs[-1].end)
        for run in runs:
            run.wait()
        return [1000 / rate for rate in images_per_sec_side_by_side([ticks_of(place / "run") for place in places])]


def environment(variables: dict[str, str]) -> dict[str, str]:
    """This process's environment, with these of the variables that say how threads wait."""
    return {key: value for key, value in os.environ.items() if key not in WAITING} | variables


def ticks_of(run: Path) -> list[dict[str, float]]:
    """When a run had trained for how many kimg."""
    rows = read_jsonl(Storage.at(run), TICKS)
    return [{"kimg": row["Progress/kimg"], "time": row["Timing/timestamp"]} for row in rows]
