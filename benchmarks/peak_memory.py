"""Benchmark `peak_memory`: what `--dry-run` predicts of a worker's memory against what a training step needs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from benchmarks import subject
from benchmarks.command import Bars, Common, Figures
from benchmarks.memory import in_own_process, peak_rss, resident
from benchmarks.results import at_most
from stylegan_ray.config import RunConfig, load_config
from stylegan_ray.distributed import prepare_process
from stylegan_ray.train.memory import LiveBytes, Subject, growth, peak_bytes, schedules

SMALL = {
    "data.resolution": 64, "model.fmap_base": 2048, "model.mapping_fmaps": 64, "model.z_dim": 64, "model.w_dim": 64,
    "schedule.minibatch_size": 32, "schedule.minibatch_gpu": 32, "schedule.minibatch_size_dict": {},
    "schedule.minibatch_gpu_dict": {}, "cluster.num_workers": 1, "train.auto": [],
}  # fmt: skip
MINIBATCH = {num: {"schedule.minibatch_size": num, "schedule.minibatch_gpu": num} for num in (4, 16)}
CASES: Mapping[str, tuple[str, dict[str, Any]]] = {
    "config-f": ("config-f", {}),
    "config-e": ("config-e", {}),
    "config-d": ("config-d", {"schedule.lod_initial_resolution": 32}),
    "config-a": ("config-a", {"schedule.lod_initial_resolution": None}),
    "skip and orig": ("config-f", {"model.G_architecture": "resnet", "model.D_architecture": "orig"}),
    "256 pixels": ("config-f", {"data.resolution": 256, **MINIBATCH[4]}),
    "not square": ("config-f", {"data.resolution": [128, 96], **MINIBATCH[16]}),
    "labels": ("config-f", {"data.cond": True, "model.label_mode": "separate"}),
    "low precision": ("config-f", {"model.num_lowp_res": 4}),
    "augmented": ("config-f", {"augment.mode": "fixed", "augment.p": 0.5}),
    "wgan-gp": ("config-f", {"loss.G": "wgan", "loss.D": "wgan_gp"}),
    "rpgan": ("config-f", {"loss.G": "rpgan", "loss.D": "rpgan"}),
    "recomputed": ("config-f", {"train.recompute_activations": 2}),
    "large networks": ("config-f", {"model.fmap_base": 8192, **MINIBATCH[4]}),
}  # fmt: skip
"""Presets and keys."""


@dataclass(frozen=True)
class Options(Common):
    """Compares the predicted with the counted bytes of tensors, and the growth of a process that trains.

    The configurations are the benchmark's own; each trains in a process of its own.
    """

    cases: tuple[str, ...] = field(default=tuple(CASES))
    """Which of them."""
    threads: int = 1
    """Threads of torch."""


def measure(options: Options, cfg: RunConfig) -> tuple[Figures, Bars]:
    """Ratios by case."""
    figures: Figures = {}
    for case in options.cases:
        preset, keys = CASES[case]
        figures[case] = compared(load_config(preset, SMALL | keys), options.threads)
        print(f"{case}: {json.dumps(figures[case])}", flush=True)
    tensors = max(abs(ratio - 1) for found in figures.values() for ratio in found["tensors"].values())
    process = max(abs(found["process"] - 1) for found in figures.values())
    return figures, [
        at_most("tensors, predicted of counted, off by", tensors, 0.1),
        at_most("process, predicted of measured growth, off by", process, 0.2),
    ]


def compared(cfg: RunConfig, threads: int) -> Figures:
    """Predicted of found bytes: of tensors by phase, and the growth of the process."""
    channels, height, width = subject.image_shape(cfg)
    predicted = peak_bytes(Subject(cfg, (height, width), channels, subject.label_size_of(cfg)))
    counted = in_own_process(counted_bytes, cfg, threads)
    grown = in_own_process(measured_growth, cfg, threads)
    return {
        "tensors": {part: predicted[part] / size for part, size in counted.items()},
        "process": growth(max(predicted.values())) / grown,
        "tensors_mib": max(counted.values()) / 2**20,
        "process_mib": grown / 2**20,
    }


def counted_bytes(cfg: RunConfig, threads: int) -> dict[str, int]:
    """Most bytes of live tensors, by phase, of a training step that is computed."""
    prepare_process(cfg, threads)
    peaks: dict[str, int] = {}
    with LiveBytes() as count:
        for trained in subjects(cfg):
            for part in trained.phases:
                peaks[part] = max(count.peak_of(partial(trained.run_phase, part)), peaks.get(part, 0))
    return peaks


def measured_growth(cfg: RunConfig, threads: int) -> int:
    """Bytes by which this process grows at most while it builds a state and runs every phase twice."""
    prepare_process(cfg, threads)
    before = resident()
    for trained in subjects(cfg):
        for part in 2 * list(trained.phases):
            trained.run_phase(part)
        del trained  # before the next one is built
    return peak_rss() - before


def subjects(cfg: RunConfig) -> Iterator[subject.Subject]:
    """What the analysis looks at, one after the other: growing networks in each transition."""
    for schedule in schedules(cfg, subject.resolution_log2(cfg)):
        yield subject.Subject(cfg, torch.device("cpu"), schedule)
