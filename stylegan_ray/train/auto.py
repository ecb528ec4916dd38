"""Values of the keys in train.auto, chosen from the resolution of the images, the number of workers and the machine.

Where they come from: Karras et al. 2020, "Training Generative Adversarial Networks with Limited Data", appendix C;
its settings by resolution are the presets paper256, paper512 and paper1024.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from stylegan_ray.config import ConfigError, RunConfig
from stylegan_ray.machine.memory import gib
from stylegan_ray.ops.convolution import has_instructions
from stylegan_ray.table import format_table
from stylegan_ray.train.memory import bytes_of_worker, device_of, largest_that_fits


@dataclass(frozen=True)
class Choice:
    """The value of a key, and the reason in words."""

    key: str
    value: Any
    why: str


def choices(cfg: RunConfig, resolution: Sequence[int]) -> list[Choice]:
    """The choices for the keys in train.auto. `resolution` is height and width in pixels."""
    height, width = resolution
    side, keys = max(height, width), cfg.train.auto
    lowp, why_lowp = _lowp_res(cfg)
    if "model.num_lowp_res" in keys:
        cfg = cfg.with_overrides({"model.num_lowp_res": lowp, "train.auto": keys})
    size, gpu, why_gpu = _minibatch_sizes(cfg, (height, width))
    rounds = size // gpu
    lrate = 0.002 if side >= 1024 else 0.0025
    why_lrate = f"0.0025 below 1024 pixels, 0.002 from there; images of {side}"
    found = {
        "schedule.minibatch_size": (size, "64 below 1024 pixels, 32 from there, and 4 a worker or more"),
        "schedule.minibatch_gpu": (gpu, why_gpu),
        "schedule.G_lrate": (lrate, why_lrate),
        "schedule.D_lrate": (lrate, why_lrate),
        "schedule.G_smoothing_kimg": (size * 10 / 32, f"10 for a minibatch of 32, in proportion for {size}"),
        "loss.r1_gamma": (0.0002 * height * width / size, f"0.0002 * {height} * {width} pixels / minibatch {size}"),
        "loss.pl_decay": (1 - 0.99**rounds, f"as 0.01 for each of {rounds} micro-batches: 1 - 0.99^{rounds}"),
        "model.num_lowp_res": (lowp, why_lowp),
        "model.fmap_base": (16384 if side >= 512 else 8192, f"16384 from 512 pixels, else 8192; images of {side}"),
    }
    return [Choice(key, *found[key]) for key in found if key in keys]


def with_choices(cfg: RunConfig, resolution: Sequence[int]) -> RunConfig:
    """The configuration with the keys in train.auto chosen; train.auto is empty then."""
    return applied(cfg, choices(cfg, resolution))


def applied(cfg: RunConfig, found: Sequence[Choice]) -> RunConfig:
    """The configuration with choices made."""
    return cfg.with_overrides({choice.key: choice.value for choice in found})


def explain(found: Sequence[Choice]) -> str:
    """A table of choices with values and reasons."""
    rows = [(choice.key, f"{choice.value:g}", choice.why) for choice in found]
    return format_table([("chosen", "value", "why"), *rows])


def _lowp_res(cfg: RunConfig) -> tuple[int, str]:
    """How many resolutions run in low precision, as many as in StyleGAN2-ADA where the device is made for it."""
    on_gpu = device_of(cfg) == "cuda"
    has = torch.cuda.is_bf16_supported(including_emulation=False) if on_gpu else has_instructions(torch.bfloat16)
    return (
        LOWP_RES if has else 0,
        f"the {'GPU' if on_gpu else 'processor'} has {'' if has else 'no '}bfloat16 instructions",
    )


LOWP_RES = 4


def _minibatch_sizes(cfg: RunConfig, resolution: tuple[int, int]) -> tuple[int, int, str]:
    """minibatch_size and minibatch_gpu, those given or those chosen, and why the second one has its value."""
    size, gpu, workers = cfg.schedule.minibatch_size, cfg.schedule.minibatch_gpu, cfg.cluster.most_workers
    gpu_is_given = "schedule.minibatch_gpu" not in cfg.train.auto
    if "schedule.minibatch_size" in cfg.train.auto:
        part = gpu if gpu_is_given else 4
        size = max(32 if max(resolution) >= 1024 else 64, workers * part)
        size = -(-size // part) * part
    if gpu_is_given:
        return size, gpu, ""
    if size < workers:
        raise ConfigError(
            f"cluster.num_workers={cfg.cluster.num_workers}: {workers} workers need a micro-batch each, but "
            f"schedule.minibatch_size={size}; use at most {size} workers, or a larger minibatch_size"
        )
    group = cfg.model.mbstd_group_size or 1
    parts = [part for part in range(size // workers, 0, -1) if size % part == 0 and part % min(group, part) == 0]
    room = bytes_of_worker(cfg)
    gpu, needed = largest_that_fits(cfg, resolution, parts, room)
    if needed > room:
        return size, gpu, f"the smallest part of {size}; a worker needs {gib(needed)}, more than the {gib(room)} it has"
    share = f" for each of {workers} workers" if workers > 1 else ""
    return size, gpu, f"the largest part of {size}{share} that fits into {gib(room)}"
