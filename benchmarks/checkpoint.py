"""Benchmark `checkpoint`: what saving costs the training, and how long the upload beside it takes."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch

from benchmarks.command import Bars, Common, Figures
from benchmarks.results import at_most
from benchmarks.subject import chosen_device, image_shape, new_state, schedule_of
from stylegan_ray.config import RunConfig
from stylegan_ray.distributed import prepare_process
from stylegan_ray.storage import Storage
from stylegan_ray.train.checkpoint import Snapshot, write_checkpoint


@dataclass(frozen=True)
class Options(Common):
    """Times the copy of the state that the training waits for, and the upload of that copy to a local disk.

    Takes every --section.key of the train command; --data.resolution is 256 where the preset leaves it to the data.
    """

    preset: str = "config-f"
    """The configuration to measure: a preset, or a YAML file."""
    repeats: int = 5
    """How often the state is saved."""
    sec_per_kimg: float = 16.4
    """The training's pace, which says how long a tick lasts."""
    threads: int | None = None
    """Threads of torch; null: as many as torch chooses."""
    device: str | None = None
    """cpu or cuda; null: the GPU where there is one."""


def measure(options: Options, cfg: RunConfig) -> tuple[Figures, Bars]:
    """Bytes, seconds blocked and seconds of upload; the bar is on the share of the interval between checkpoints."""
    prepare_process(cfg, options.threads)
    device = chosen_device(options.device)
    state = new_state(cfg, device)
    blocked, upload, sizes, snapshot = [], [], {}, None
    with TemporaryDirectory(prefix="stylegan_ray-") as folder:
        for _ in range(options.repeats):
            start = time.perf_counter()
            snapshot = Snapshot.of(state, cfg, spare=snapshot)
            copied = time.perf_counter()
            write_checkpoint(snapshot, Storage.at(folder))
            blocked.append(copied - start)
            upload.append(time.perf_counter() - copied)
            sizes = {file.name: file.stat().st_size for file in Path(folder, snapshot.name).iterdir()}
    interval = interval_sec(cfg, options.sec_per_kimg)
    share = median(blocked) / interval
    figures = {
        "preset": cfg.run.preset,
        "device": str(device),
        "threads": torch.get_num_threads(),
        "image_shape": list(image_shape(cfg)),
        "parameters": {part: sum(p.numel() for p in getattr(state, part).parameters()) for part in ("G", "D")},
        "bytes": sum(sizes.values()),
        "blocked_sec": median(blocked),
        "blocked_sec_by_repeat": blocked,
        "upload_sec": median(upload),
        "upload_sec_by_repeat": upload,
        "sec_per_kimg": options.sec_per_kimg,
        "interval_sec": interval,
        "blocked_share": share,
    }
    return figures, [at_most("blocked_sec / interval_sec", share, 0.01)]


def interval_sec(cfg: RunConfig, sec_per_kimg: float) -> float:
    """Seconds between two checkpoints: so many ticks, or so many minutes if that is sooner."""
    train = cfg.train
    by_ticks = (
        train.checkpoint_ticks * schedule_of(cfg).tick_kimg * sec_per_kimg if train.checkpoint_ticks else math.inf
    )
    return min(by_ticks, train.checkpoint_minutes * 60 if train.checkpoint_minutes else math.inf)
