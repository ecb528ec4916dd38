"""Toy runs of configurations A to D that go through a transition from 4x4 to 8x8 within a few iterations."""

from __future__ import annotations

import math
from typing import Any

from support.toy import RESOLUTION, toy_config

from stylegan_ray.config import RunConfig
from stylegan_ray.train.schedule import walk

PRESETS = ("config-a", "config-b", "config-c", "config-d")


def growing_config(preset: str, **overrides: Any) -> RunConfig:
    """24 images at lod 1 in minibatches of 12, a fade over 32 in minibatches of 8, and 16 at lod 0."""
    keys = {
        "schedule.minibatch_size_dict": {4: 12}, "schedule.minibatch_gpu_dict": {4: 4},
        "schedule.lod_initial_resolution": 4, "schedule.lod_training_kimg": 0.02,
        "schedule.lod_transition_kimg": 0.03, "train.total_kimg": 0.072,
    }  # fmt: skip
    return toy_config(preset, **keys | overrides)


def lods(cfg: RunConfig) -> list[float]:
    """The lod of every group of the run."""
    groups = []
    for group in walk(cfg, 0, math.log2(RESOLUTION)):
        if group.nimg >= cfg.train.total_kimg * 1000:
            return groups
        groups.append(group.schedule.lod)
    return groups
