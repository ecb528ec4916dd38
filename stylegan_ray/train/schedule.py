"""Everything that changes over time, as a pure function of the clock, and the walk of a run through it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stylegan_ray.config import ConfigError, RunConfig
from stylegan_ray.networks import level_sizes
from stylegan_ray.rng import Place


@dataclass(frozen=True)
class Schedule:
    """The settings in force at one moment."""

    kimg: float
    lod: float
    resolution: int
    """Current side (the larger one): full resolution >> floor(lod)."""
    minibatch_size: int
    minibatch_gpu: int
    G_lrate: float
    D_lrate: float
    tick_kimg: float
    G_smoothing_beta: float

    @property
    def num_micro_batches(self) -> int:
        """Micro-batches of a minibatch, over all ranks."""
        return self.minibatch_size // self.minibatch_gpu

    @property
    def level(self) -> int:
        """Which reduction of the pictures the data pipeline serves: 0 full size, 1 half, ..."""
        return math.floor(self.lod)


def training_schedule(cfg: RunConfig, cur_nimg: int, resolution_log2: float) -> Schedule:
    """The schedule at a clock value (Karras et al. 2018, section 2 and appendix A for the growing)."""
    sched = cfg.schedule
    kimg = cur_nimg / 1000
    lod = _lod(cfg, kimg, resolution_log2)
    resolution = round(2 ** (resolution_log2 - math.floor(lod)))
    rampup = min(kimg / sched.lrate_rampup_kimg, 1.0) if sched.lrate_rampup_kimg else 1.0
    minibatch_size = _at(sched.minibatch_size_dict, resolution, sched.minibatch_size)
    return Schedule(
        kimg=kimg,
        lod=lod,
        resolution=resolution,
        minibatch_size=minibatch_size,
        minibatch_gpu=_at(sched.minibatch_gpu_dict, resolution, sched.minibatch_gpu),
        G_lrate=_at(sched.G_lrate_dict, resolution, sched.G_lrate) * rampup,
        D_lrate=_at(sched.D_lrate_dict, resolution, sched.D_lrate) * rampup,
        tick_kimg=_at(sched.tick_kimg_dict, resolution, sched.tick_kimg),
        G_smoothing_beta=_smoothing_beta(cfg, kimg, minibatch_size),
    )


def _at(table: Mapping[int, Any], resolution: int, base: Any) -> Any:
    return table.get(resolution, base)


def _lod(cfg: RunConfig, kimg: float, resolution_log2: float) -> float:
    sched = cfg.schedule
    if sched.lod_initial_resolution is None:
        return 0.0
    phase_kimg = sched.lod_training_kimg + sched.lod_transition_kimg
    phase = math.floor(kimg / phase_kimg) if phase_kimg > 0 else 0
    into_phase = kimg - phase * phase_kimg
    lod = _levels_between(sched.lod_initial_resolution, resolution_log2) - phase
    if sched.lod_transition_kimg > 0:
        lod -= max(into_phase - sched.lod_training_kimg, 0.0) / sched.lod_transition_kimg
    return max(lod, 0.0)


def _levels_between(initial_resolution: int, resolution_log2: float) -> float:
    """How many times the first resolution is doubled; a whole number in spite of the rounding of logarithms."""
    levels = resolution_log2 - math.log2(initial_resolution)
    return float(round(levels)) if abs(levels - round(levels)) < 1e-9 else levels


def check_growing(cfg: RunConfig, resolution: int | Sequence[int]) -> None:
    """Raises ConfigError when these networks cannot grow as the schedule says."""
    initial = cfg.schedule.lod_initial_resolution
    if initial is None:
        return
    sides = [max(size) for size in level_sizes(resolution)]
    if cfg.model.family == "stylegan2":
        raise ConfigError(
            f"schedule.lod_initial_resolution={initial}: networks of model.family=stylegan2 do not grow; use null, "
            f"or model.family=revised or stylegan1 (presets config-a to config-d)"
        )
    if initial not in sides:
        raise ConfigError(
            f"schedule.lod_initial_resolution={initial} must be a resolution that training at {sides[-1]} pixels goes "
            f"through; use {' or '.join(map(str, sides))}, or null for no growing"
        )


def _smoothing_beta(cfg: RunConfig, kimg: float, minibatch_size: int) -> float:
    """What G_ema keeps of itself per iteration, from its half-life in kimg."""
    half_life_kimg = cfg.schedule.G_smoothing_kimg
    if cfg.schedule.G_smoothing_rampup is not None:
        half_life_kimg = min(half_life_kimg, kimg * cfg.schedule.G_smoothing_rampup)
    return 0.5 ** (minibatch_size / (half_life_kimg * 1000)) if half_life_kimg > 0 else 0.0


def lazy_ratio(cfg: RunConfig, network: str) -> float:
    """The factor on the learning rate, and exponent on the betas, that pays for regularisation turns.

    interval / (interval + 1) (Karras et al. 2020, appendix B); 1 without lazy regularisation.
    """
    if not cfg.train.lazy_regularization:
        return 1.0
    interval = cfg.train.G_reg_interval if network == "G" else cfg.train.D_reg_interval
    return interval / (interval + 1)


@dataclass(frozen=True)
class Group:
    """`minibatch_repeats` minibatches under one reading of the schedule; the run can stop only between groups."""

    nimg: int
    schedule: Schedule
    repeats: int

    @property
    def end_nimg(self) -> int:
        return self.nimg + self.repeats * self.schedule.minibatch_size

    def minibatch_nimgs(self) -> list[int]:
        """cur_nimg at the beginning of each minibatch."""
        return [self.nimg + i * self.schedule.minibatch_size for i in range(self.repeats)]


def group_at(cfg: RunConfig, cur_nimg: int, resolution_log2: float) -> Group:
    """The group that begins at a clock value."""
    return Group(cur_nimg, training_schedule(cfg, cur_nimg, resolution_log2), cfg.schedule.minibatch_repeats)


def walk(cfg: RunConfig, cur_nimg: int, resolution_log2: float) -> Iterator[Group]:
    """The endless line of groups from a clock value on."""
    while True:
        group = group_at(cfg, cur_nimg, resolution_log2)
        yield group
        cur_nimg = group.end_nimg


def places_of_rank(nimg: int, schedule: Schedule, rank: int, world_size: int) -> list[Place]:
    """The micro-batches of a minibatch that a rank computes: number j belongs to rank j mod world_size."""
    indices = range(rank, schedule.num_micro_batches, world_size)
    return [Place(nimg, index, nimg + index * schedule.minibatch_gpu) for index in indices]
