"""Benchmark `stream`: the stream of real images against a bare Pillow loop, and its cost while training is slow."""

from __future__ import annotations

import itertools
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from copy import copy
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
import ray
from PIL import Image

from benchmarks.command import Bars, Common, Figures
from benchmarks.results import at_least, at_most
from stylegan_ray.cluster.prepare.command import prepare_data
from stylegan_ray.cluster.reals import RealsStream, stream_of_reals
from stylegan_ray.config import RunConfig
from stylegan_ray.cores import num_cores
from stylegan_ray.data import Dataset, open_dataset
from stylegan_ray.data.options import PrepareOptions
from stylegan_ray.data.reals import RealsSource

PASS_IMAGES = 200
"""Images of a generated data set: so few that passes end all the time."""
LARGE = 256
"""Resolution from which on the stream must be nearly as fast as the loop."""
GROWTH = 1.1
"""How much faster a thread for each core must be than one; the consumer and Ray need those cores too."""
Counted = tuple[int, float, float]
"""Images, seconds, and CPU seconds of all processes."""
TINY_SIZE, TINY_IMG_S = 32, 150
"""The pace of the tiny preset on two cores, at which the stream should cost almost nothing."""


@dataclass(frozen=True)
class Options(Common):
    """Decodes generated photographs, or the images at --data.path, in a loop and by the stream, alternately.

    Takes every --section.key of the train command: --schedule.minibatch_size, --cluster.read_ahead, ...
    """

    sizes: tuple[int, ...] = (64, 256)
    """Resolutions of the generated photographs."""
    formats: tuple[Literal["png", "jpeg"], ...] = ("png", "jpeg")
    """File formats of the generated photographs."""
    repeats: int = 5
    """How often each speed is measured, alternately."""
    sec: float = 3.0
    """Length of one measurement of speed; the slow consumer is measured five times as long."""


@dataclass(frozen=True)
class Case:
    """Images to decode, and the configuration that reads them."""

    cfg: RunConfig
    source: RealsSource

    @property
    def resolution(self) -> int:
        return max(self.source.dataset.resolution)

    def stream(self, threads: int = 1) -> RealsStream:
        source = copy(self.source)
        source.threads = threads
        return stream_of_reals(self.cfg, source, 0, math.log2(self.resolution), 0, 1)


def measure(options: Options, cfg: RunConfig) -> tuple[Figures, Bars]:
    """Speeds by kind of image; first minibatch, stalls at the ends of passes, memory and CPU at the pace of tiny."""
    with local_ray(), tempfile.TemporaryDirectory() as folder:
        figures = measured(options, cfg, Path(folder))
    return figures, bars(figures)


def measured(options: Options, cfg: RunConfig, folder: Path) -> Figures:
    """All figures, on images generated in the folder."""
    tiny = photographs(cfg, folder, TINY_SIZE, "png")
    first_batch = first_batches(tiny, options.repeats)
    speeds = {name: speed(case, options) for name, case in cases(cfg, options, folder)}
    by_kind = {key: {name: case[key] for name, case in speeds.items()} for key in next(iter(speeds.values()))}
    slow = slow_consumer(tiny, 5 * options.sec)
    slow["idle_cpu_cores"] = paused_consumer(tiny, options.sec)
    return {**by_kind, "img_s_stream_growing": growing(cfg, options, folder), **first_batch, **slow}


@contextmanager
def local_ray() -> Iterator[None]:
    """A Ray of this machine, without a dashboard."""
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    ray.init(address="local", num_cpus=num_cores(), include_dashboard=False, **quiet)
    try:
        yield
    finally:
        ray.shutdown()


def bars(figures: Figures) -> Bars:
    """The bars of the stream."""
    held = [bar for name in figures["resolution"] for bar in bars_of_speed(figures, name)]
    held.append(at_most("first minibatch in a new Ray, s", figures["first_batch_sec"], 5.0))
    held.append(at_most("wait for a minibatch at the end of a pass, s", figures["pass_end_max_stall_sec"], 0.05))
    held.append(at_most("training process at tiny's pace, cores", figures["slow_cpu_cores"]["here"], 0.05))
    return held


def bars_of_speed(figures: Figures, name: str) -> Bars:
    """The bars of its speed on one kind of images, which are higher for large ones: they take long to decode."""
    is_large = figures["resolution"][name] >= LARGE
    by_threads = {int(threads): median(img_s) for threads, img_s in figures["img_s_stream"][name].items()}
    one, most = by_threads[1], max(by_threads)
    share = one / median(figures["img_s_pillow_core"][name])
    held = [at_least(f"{name}: stream over bare Pillow loop, per core", share, 0.8 if is_large else 0.5)]
    if is_large and most > 1:
        held.append(at_least(f"{name}: stream of {most} threads over that of one", by_threads[most] / one, GROWTH))
    return held


def cases(cfg: RunConfig, options: Options, folder: Path) -> Iterator[tuple[str, Case]]:
    """The images to measure speeds on, by name."""
    if cfg.data.path is not None:
        yield Path(cfg.data.path).name, given(cfg)
        return
    for size in options.sizes:
        for kind in options.formats:
            yield f"{kind}{size}", photographs(cfg, folder, size, kind)


def given(cfg: RunConfig) -> Case:
    """The images of a configuration."""
    return Case(cfg, source_of(cfg, open_dataset(cfg.data)))


def source_of(cfg: RunConfig, dataset: Dataset) -> RealsSource:
    """A data set in the order of a configuration."""
    return RealsSource.of(cfg, dataset)


def photographs(cfg: RunConfig, folder: Path, size: int, kind: str) -> Case:
    """A folder of images with large shapes and sensor noise, which compress about as well as photographs."""
    path = folder / f"{kind}{size}"
    if not path.exists():
        path.mkdir()
        rng = np.random.default_rng(size)
        for i in range(PASS_IMAGES):
            colors = Image.fromarray(rng.integers(256, size=(9, 9, 3), dtype=np.uint8))
            shapes = colors.resize((size, size), Image.Resampling.BICUBIC)
            noisy = np.asarray(shapes) + rng.normal(0, 3, (size, size, 3))
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path / f"{i}.{kind}", quality=90)
    return given(cfg.with_overrides({"data.path": str(path), "data.resolution": size, "data.mirror_augment": True}))


def speed(case: Case, options: Options) -> dict[str, Any]:
    """Images per second, and per CPU second of all processes, of the loop and of the stream by number of threads."""
    ways: dict[str, Callable[[], Counted]] = {"pillow": partial(pillow, case, options.sec)}
    ways |= {str(threads): partial(stream, case, threads, options.sec) for threads in sorted({1, num_cores()})}
    img_s: dict[str, list[float]] = {way: [] for way in ways}
    img_per_cpu_sec: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(options.repeats):
        for way, measure_once in ways.items():
            num, sec, cpu_sec = measure_once()
            img_s[way].append(num / sec)
            img_per_cpu_sec[way].append(num / cpu_sec)
    return {
        "resolution": case.resolution,
        "img_s_pillow_core": img_s.pop("pillow"),
        "img_s_stream": img_s,
        "img_per_cpu_sec": img_per_cpu_sec,
    }


def pillow(case: Case, sec: float) -> Counted:
    """Images, seconds and CPU seconds of a loop of Pillow and numpy alone, on one core."""
    path = Path(case.source.dataset.path)
    files = sorted(file for file in path.rglob("*") if file.suffix in (".png", ".jpg", ".jpeg"))

    def batches() -> Iterator[int]:
        for first in itertools.count(0, 8):
            images = [np.asarray(Image.open(files[i % len(files)]).convert("RGB")) for i in range(first, first + 8)]
            yield len(np.stack([image[:, :: 1 - 2 * (i % 2)].transpose(2, 0, 1) for i, image in enumerate(images)]))

    return counted(batches(), sec)


def stream(case: Case, threads: int, sec: float) -> Counted:
    """The same of the stream, for a consumer that does nothing else, once what was decoded ahead is consumed."""
    with case.stream(threads) as reals:
        for _ in range((case.cfg.cluster.read_ahead + 1) * case.cfg.schedule.minibatch_repeats):
            next(reals)
        return counted((sum(len(images) for images, _ in micro_batches) for micro_batches in reals), sec)


def growing(cfg: RunConfig, options: Options, folder: Path) -> dict[str, dict[str, float]]:
    """Images per second at each resolution of a growing network, from the largest images as PNG and as TFRecords."""
    case, found = photographs(cfg, folder, max(options.sizes), "png"), {}
    for name, of_kind in (("png", case), ("tfrecords", as_tfrecords(case, folder / "tfrecords"))):
        found[name] = {}
        for log2 in range(3, 1 + int(math.log2(max(options.sizes)))):
            at_lod = Case(of_kind.cfg.with_overrides({"schedule.lod_initial_resolution": 2**log2}), of_kind.source)
            num, sec, _ = stream(at_lod, 1, options.sec)
            found[name][str(2**log2)] = num / sec
    return found


def as_tfrecords(case: Case, path: Path) -> Case:
    """The same images as TFRecord files of all sizes."""
    with redirect_stdout(StringIO()):
        prepare_data(PrepareOptions(str(case.cfg.data.path), str(path), workers=0))
    return given(case.cfg.with_overrides({"data.path": str(path)}))


def counted(batches: Iterator[int], sec: float) -> Counted:
    """Images that arrive within some seconds; the exact seconds, and the CPU seconds of all processes."""
    clock, num = CpuClock(), 0
    while clock.elapsed() < sec:
        num += next(batches)
    used = clock.used()
    return num, clock.elapsed(), used["here"] + used["decoding"] + used["rest_of_ray"]


def first_batches(case: Case, repeats: int) -> Figures:
    """Seconds from the start of a stream to its first minibatch: in a new Ray, whose processes start, and repeated."""
    sec = []
    for _ in range(1 + repeats):
        begun = time.perf_counter()
        with case.stream() as reals:
            next(reals)
            sec.append(time.perf_counter() - begun)
    return {"first_batch_sec": sec[0], "first_batch_warm_sec": sec[1:]}


def slow_consumer(case: Case, sec: float) -> Figures:
    """Waits, CPU and memory while the consumer is as slow as training with tiny."""
    schedule, size = case.cfg.schedule, case.cfg.schedule.minibatch_size
    skipped = 2 * case.cfg.cluster.read_ahead * schedule.minibatch_repeats
    waits: list[tuple[float, bool]] = []
    with case.stream() as reals:
        for _ in range(skipped):
            next(reals)
        clock = CpuClock()
        for position in range(skipped * size, skipped * size + round(sec * TINY_IMG_S), size):
            begun = time.perf_counter()
            next(reals)
            waits.append((time.perf_counter() - begun, position // PASS_IMAGES < (position + size) // PASS_IMAGES))
            time.sleep(max(size / TINY_IMG_S - waits[-1][0], 0))
        cpu_cores = clock.cores()
        memory = {"object_store_mb": object_store_bytes() / 2**20, "decoder_rss_mb": decoder_rss_mb()}
    num, _, cpu_sec = pillow(case, 1)
    ends = [wait for wait, ends_pass in waits if ends_pass]
    return {
        "pass_ends": len(ends),
        "pass_end_max_stall_sec": max(ends),
        "max_stall_sec": max(wait for wait, _ in waits),
        "data_wait_share": sum(wait for wait, _ in waits) / sec,
        "slow_cpu_cores": cpu_cores,
        "slow_decoding_itself_cores": TINY_IMG_S * cpu_sec / num,
        **memory,
    }


def paused_consumer(case: Case, sec: float) -> dict[str, float]:
    """CPU while nobody reads the stream."""
    with case.stream() as reals:
        next(reals)
        time.sleep(3)  # until all that may be decoded ahead is decoded
        clock = CpuClock()
        time.sleep(sec)
        return clock.cores()


def object_store_bytes() -> float:
    """Bytes in use in the object stores of all nodes."""
    name = "object_store_memory"
    return ray.cluster_resources()[name] - ray.available_resources().get(name, 0)


class CpuClock:
    """CPU time of this process and of its descendants, by purpose; Linux only."""

    def __init__(self) -> None:
        self.begun, self.before = time.perf_counter(), processes()

    def elapsed(self) -> float:
        """Seconds since the clock was made."""
        return time.perf_counter() - self.begun

    def cores(self) -> dict[str, float]:
        """CPU seconds per second since then."""
        return {role: round(sec / self.elapsed(), 4) for role, sec in self.used().items()}

    def used(self) -> dict[str, float]:
        """CPU seconds since then."""
        used: dict[str, float] = {"here": 0.0, "decoding": 0.0, "rest_of_ray": 0.0}
        for key, (role, sec) in processes().items():
            used[role] += sec - self.before.get(key, ("", 0.0))[1]
        return used


def processes() -> dict[str, tuple[str, float]]:
    """Role and CPU seconds of this process and of its descendants, by process id."""
    parents: dict[str, str] = {}
    found: dict[str, tuple[str, float]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            command = (folder / "cmdline").read_text()
            parents[folder.name], sec = parent_and_cpu_sec(folder / "stat")
            decodes = command.startswith(("ray::ReadReals", "ray::IDLE"))
            found[folder.name] = "decoding" if decodes else "rest_of_ray", sec
    here = str(os.getpid())
    found[here] = "here", found[here][1]
    return {pid: value for pid, value in found.items() if here in ancestors(pid, parents)}


def ancestors(pid: str, parents: Mapping[str, str]) -> Iterator[str]:
    """A process, its parent, and so on."""
    while pid in parents:
        yield pid
        pid = parents[pid]


def parent_and_cpu_sec(stat: Path) -> tuple[str, float]:
    """Of a process or thread, from its stat file (man proc)."""
    fields = stat.read_text().rpartition(")")[2].split()
    return fields[1], (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def decoder_rss_mb() -> float:
    """Memory of the largest decoding process, including shared pages."""
    decoders = [pid for pid, (role, _) in processes().items() if role == "decoding"]
    pages = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in decoders]
    return max(pages, default=0) * os.sysconf("SC_PAGE_SIZE") / 2**20
