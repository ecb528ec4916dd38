"""What a growing network's early phases cost: layers above the current resolution are not computed."""

from __future__ import annotations

import time
from statistics import median

import torch

from benchmarks.subject import Subject, resolution_log2, schedule_of
from stylegan_ray.config import RunConfig


def images_per_sec_by_resolution(cfg: RunConfig, device: torch.device, repeats: int) -> dict[str, float]:
    """Images per second over a cycle of regularization phases, at each whole lod; nothing where nothing grows."""
    first = cfg.schedule.lod_initial_resolution
    if first is None:
        return {}
    sides = [2**log2 for log2 in range(first.bit_length() - 1, int(resolution_log2(cfg)) + 1)]
    return {str(side): images_per_sec(Subject(cfg, device, schedule_of(cfg, side)), repeats) for side in sides}


def images_per_sec(subject: Subject, repeats: int) -> float:
    """minibatch size / sum(median sec / interval) over the phases; a first time warms up."""
    per_iteration = 0.0
    for part, phase in subject.phases.items():
        per_iteration += median([seconds(subject, part) for _ in range(1 + repeats)][1:]) / phase.interval
    return subject.schedule.minibatch_size / per_iteration


def seconds(subject: Subject, part: str) -> float:
    """Wall time of a phase."""
    start = time.perf_counter()
    subject.run_phase(part)
    return time.perf_counter() - start
