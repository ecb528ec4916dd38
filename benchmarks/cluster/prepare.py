"""Benchmark `prepare`: prepare_data on one core and on two, opening of many small files, memory for many rows."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from benchmarks.cluster.local_cluster import descendants, kill
from benchmarks.command import Bars, Common, Figures
from benchmarks.memory import in_own_process, peak_rss
from benchmarks.results import at_least, at_most
from stylegan_ray.config import ConfigError, DataConfig, RunConfig
from stylegan_ray.data.encode import encode_png

PARTS = ("cores", "files", "rows")
DIFFERENT = 64
"""Images that differ; the others are links to them."""
ROW_SIDE = 32
GROUP_ROWS = 1000
FILES_PER_FOLDER = 1000
MOST_SEC = 3600.0


@dataclass(frozen=True)
class Options(Common):
    """Runs prepare_data on one core and on two, in turns; opens many small files; reads a Parquet file of many rows.

    The ratio needs two idle cores. Takes every --section.key of the train command, and uses none.
    """

    parts: tuple[str, ...] = PARTS
    """What to measure."""
    images: int = 3000
    """PNG files of `side` pixels that prepare_data makes a zip of."""
    side: int = 512
    resolution: int = 256
    files: int = 200_000
    """Small PNG files that are opened."""
    rows: int = 1_000_000
    """Rows of the Parquet file."""
    repeats: int = 3
    """Turns."""
    folder: Path | None = None
    """Where to write what is read and made, which is deleted at the end (default: the temporary folder)."""


def measure(options: Options, cfg: RunConfig) -> tuple[Figures, Bars]:
    """Figures and bars of the parts; the configuration is not used."""
    if unknown := set(options.parts) - set(PARTS):
        raise ConfigError(f"--parts {' '.join(sorted(unknown))}: known are {', '.join(PARTS)}")
    figures: Figures = {}
    bars: Bars = []
    measured = {"cores": measure_cores, "files": measure_files, "rows": measure_rows}
    for part in options.parts:
        with TemporaryDirectory(prefix="sgr-prepare-", dir=options.folder, ignore_cleanup_errors=True) as folder:
            figures[part], more = measured[part](options, Path(folder))
        bars += more
    return figures, bars


# Cores.


class Ran(NamedTuple):
    """A command that has ended."""

    sec: float
    cpu_sec: float
    """Of the command's own process and of the children it waited for."""
    peak_rss: int
    output: str


def measure_cores(options: Options, folder: Path) -> tuple[Figures, Bars]:
    """Wall time of the whole command on one core and on two, with nothing prepared before; CPU time without Ray."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise ConfigError("--parts cores: two cores are needed, and there is one; leave it out")
    source = write_images(folder / "source", options.images, options.side)
    ways: dict[str, list[Ran]] = {"one": [], "two": []}
    size = ["--resolution", str(options.resolution)]
    alone = prepare(folder, [str(source), str(folder / "alone.zip"), *size, "--workers", "0"], cores[:1])
    for _ in range(options.repeats):
        for way, used in (("one", cores[:1]), ("two", cores[:2])):
            words = [str(source), str(folder / f"{way}.zip"), *size, "--workers", str(len(used)), "--overwrite"]
            ways[way].append(prepare(folder, words, used))
    assert (folder / "one.zip").read_bytes() == (folder / "two.zip").read_bytes()
    ratios = [one.sec / two.sec for one, two in zip(ways["one"], ways["two"], strict=True)]
    figures = {
        "images": options.images, "side": options.side, "resolution": options.resolution,
        "sec_on_one": [ran.sec for ran in ways["one"]], "sec_on_two": [ran.sec for ran in ways["two"]],
        "ratio": ratios, "sec_without_ray_on_one": alone.sec,
        "cpu_ms_per_image_without_ray": 1000 * alone.cpu_sec / options.images,
    }  # fmt: skip
    return figures, [at_least("sec_on_one / sec_on_two", median(ratios), 1.6)]


def prepare(folder: Path, words: list[str], cores: list[int]) -> Ran:
    """Runs prepare_data on some cores, with an empty cache."""
    cache, log = folder / "cache", folder / "log"
    shutil.rmtree(cache, ignore_errors=True)
    env = {**os.environ, "STYLEGAN_RAY_CACHE": str(cache), "RAY_worker_niceness": "0"}
    job = Path(__file__).parents[2] / "jobs" / "prepare_data.py"
    before = os.sched_getaffinity(0)
    began = time.monotonic()
    with open(log, "wb") as out:
        os.sched_setaffinity(0, cores)  # what it starts inherits this
        try:
            process = subprocess.Popen([sys.executable, str(job), *words], stdout=out, stderr=out, env=env)
        finally:
            os.sched_setaffinity(0, before)
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            kill([*descendants(process.pid), process.pid])
            with suppress(ChildProcessError):
                os.waitpid(process.pid, 0)
            raise
    process.returncode = os.waitstatus_to_exitcode(status)
    output = log.read_text(errors="replace")
    if process.returncode:
        raise RuntimeError(f"prepare_data ended with status {process.returncode}: {output[-2000:]}")
    unit = 1 if sys.platform == "darwin" else 1024
    return Ran(time.monotonic() - began, usage.ru_utime + usage.ru_stime, unit * usage.ru_maxrss, output)


def write_images(folder: Path, num: int, side: int) -> Path:
    """PNG files of smooth images with some noise, which compress as photographs do."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(num):
        path = folder / f"{number:06d}.png"
        if number < DIFFERENT:
            coarse = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8))
            smooth = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), dtype=np.int16)
            noisy = smooth + rng.normal(0, 4, smooth.shape).astype(np.int16)
            path.write_bytes(encode_png(noisy.clip(0, 255).astype(np.uint8).transpose(2, 0, 1)))
        else:
            os.link(folder / f"{number % DIFFERENT:06d}.png", path)
    return folder


# Small files.


def measure_files(options: Options, folder: Path) -> tuple[Figures, Bars]:
    """Time from the path to the index of a folder whose files are in the page cache; only headers are read."""
    source = folder / "source"
    for number, content in enumerate(small_images(options.files, 8)):
        place = source / f"{number // FILES_PER_FOLDER:05d}"
        if number % FILES_PER_FOLDER == 0:
            place.mkdir(parents=True)
        (place / f"img{number:08d}.png").write_bytes(content)
    for path in source.rglob("*.png"):
        path.read_bytes()
    opened = [
        in_own_process(open_in_process, str(source), str(folder / f"cache{turn}")) for turn in range(options.repeats)
    ]
    figures = {"files": options.files, **{key: [one[key] for one in opened] for key in opened[0]}}
    return figures, [at_most("sec to open the small files", median(figures["sec"]), 10.0)]


def open_in_process(path: str, cache: str) -> dict[str, float]:
    """Opens a data set with an empty cache; headers only, however few images there are."""
    os.environ["STYLEGAN_RAY_CACHE"] = cache
    from stylegan_ray.data import open as open_data
    from stylegan_ray.data import scan

    scan.DECODE_UP_TO = 0
    began, cpu = time.monotonic(), time.process_time()
    open_data.open_dataset(DataConfig(path=path, shuffle="blocks"))
    return {
        "sec": time.monotonic() - began, "cpu_sec": time.process_time() - cpu, "peak_rss_gb": peak_rss() / 1e9
    }  # fmt: skip


def small_images(num: int, side: int) -> Iterator[bytes]:
    """PNG files of side x side pixels that differ, not compressed."""
    rng = np.random.default_rng(0)
    for number in range(num):
        image = rng.integers(0, 256, (3, side, side), dtype=np.uint8)
        image.reshape(-1)[:4] = np.frombuffer(number.to_bytes(4, "little"), dtype=np.uint8)
        yield encode_png(image, compress_level=0)


# Rows.


def measure_rows(options: Options, folder: Path) -> tuple[Figures, Bars]:
    """Peak memory of opening a Parquet file of many rows, and of preparing it; the same for a tenth of the rows."""
    figures: dict[str, Any] = {}
    for rows in (options.rows // 10, options.rows):
        source = write_parquet(folder / "source.parquet", rows)
        opened = in_own_process(open_in_process, str(source), str(folder / f"cache{rows}"))
        ran = prepare(
            folder,
            [str(source), str(folder / "set"), "--format", "parquet", "--overwrite", "--workers", "0"],
            sorted(os.sched_getaffinity(0)),
        )
        assert re.search(rf"Wrote {rows} images", ran.output)
        figures[f"{rows}"] = {
            "sec_to_open": opened["sec"], "peak_gb_to_open": opened["peak_rss_gb"],
            "sec_to_prepare": ran.sec, "peak_gb_to_prepare": ran.peak_rss / 1e9,
        }  # fmt: skip
    last = figures[f"{options.rows}"]
    return figures, [
        at_most("peak GB of opening", last["peak_gb_to_open"], 1.0),
        at_most("peak GB of preparing", last["peak_gb_to_prepare"], 1.0),
    ]


def write_parquet(path: Path, rows: int) -> Path:
    """A Parquet file with a label of 1,000 classes, as Hugging Face's library writes it: 3.2 kB a row.

    A million rows are three times the memory that may be used.
    """
    schema = pa.schema({"image": pa.struct({"bytes": pa.binary(), "path": pa.string()}), "label": pa.int64()})
    contents = pa.array(small_images(min(rows, GROUP_ROWS), ROW_SIDE), pa.binary())  # those of every row group
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
        for first in range(0, rows, GROUP_ROWS):
            numbers = np.arange(first, min(first + GROUP_ROWS, rows))
            paths = pa.array([f"{number}.png" for number in numbers.tolist()])
            image = pa.StructArray.from_arrays([contents[: len(numbers)], paths], ["bytes", "path"])
            writer.write_table(pa.Table.from_arrays([image, pa.array(numbers % 1000)], schema=schema))
    return path
