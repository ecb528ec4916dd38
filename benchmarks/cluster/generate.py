"""Benchmark `generate`: images of `generate --n` per core, against a bare loop that computes and encodes them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch

from benchmarks.command import Bars, Common, Figures
from benchmarks.results import at_least
from benchmarks.subject import image_shape, label_size_of
from stylegan_ray.config import ConfigError, RunConfig
from stylegan_ray.cores import num_cores
from stylegan_ray.images.many import Part, PartWriter, Recipe, parts_of
from stylegan_ray.networks import build_generator


@dataclass(frozen=True)
class Options(Common):
    """Computes images in one-thread tasks and in a bare loop of one thread, in turns.

    Takes every --section.key of the train command. Needs as many idle cores as there are tasks.
    """

    preset: str = "config-e"
    """The configuration whose generator is measured, with random weights."""
    num: int = 48
    """Images of a task in a turn."""
    batch: int = 8
    """Images computed at once."""
    tasks: int = 1
    """Tasks at once."""
    repeats: int = 5
    """Turns of each way."""
    format: str = "png"
    """Files of the tasks: png or tar; the bare loop keeps its PNG files in memory."""


def measure(options: Options, cfg: RunConfig) -> tuple[Figures, Bars]:
    """Images per second and core of both ways; the start of Ray and of its processes is not counted."""
    from stylegan_ray.cluster.resources import joined
    from stylegan_ray.cluster.task_pool import TaskPool

    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 would let other programs slow one way alone
    if options.tasks > num_cores():
        raise ConfigError(f"--tasks {options.tasks}: this machine has {num_cores()} cores")
    channels, height, width = image_shape(cfg)
    G = build_generator(cfg.model, (height, width), channels, label_size_of(cfg))
    kind = "tar" if options.format == "tar" else "png"
    recipe = Recipe("", 1.0, None, None, "const", kind, options.batch, options.num, "cpu")
    num, rates = options.num * options.tasks, {"bare": [], "tasks": []}
    with TemporaryDirectory(prefix="sgr-") as folder, joined(cfg.with_overrides({"cluster.num_workers": 1}), print):
        writer = PartWriter(G, cfg.train.drange_net, 0.0, recipe, folder)
        pool = TaskPool(writer, options.tasks)
        list(pool.as_they_come([Part(0, options.batch)] * options.tasks))  # loads what the processes need
        threads = torch.get_num_threads()
        for turn in range(options.repeats):
            rates["bare"].append(rate(bare_loop(writer, options.num), options.num))
            parts = list(parts_of(recipe, num))
            rates["tasks"].append(rate(pool.as_they_come(parts), num) / options.tasks)
            assert len(list(Path(folder).iterdir())) >= len(parts), turn
        torch.set_num_threads(threads)
    ratios = [tasks / bare for tasks, bare in zip(rates["tasks"], rates["bare"], strict=True)]
    figures = {
        "preset": cfg.run.preset, "size": f"{height}x{width}", "batch": options.batch, "format": kind,
        "tasks": options.tasks, "img_s_bare": rates["bare"], "img_s_per_task": rates["tasks"], "ratio": ratios,
    }  # fmt: skip
    return figures, [at_least("img_s_per_task / img_s_bare", median(ratios), 0.9)]


def bare_loop(writer: PartWriter, num: int) -> Iterator[list[bytes]]:
    """PNG files of all images, in batches, by this process."""
    for first in range(0, num, writer.recipe.batch):
        yield writer.batch_from(first)


def rate(work: Iterator[object], num: int) -> float:
    """Images per second of work that is done as it is read."""
    began = time.monotonic()
    for _ in work:
        pass
    return num / (time.monotonic() - began)
