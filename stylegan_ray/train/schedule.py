"""Everything that changes over time, as a pure function of cur_nimg, and the groups of minibatches of a run."""

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
    """The settings at one value of cur_nimg."""

    kimg: float
    lod: float
    resolution: int
    """The larger side at this lod: full resolution >> floor(lod)."""
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
        """The size of images that the data pipeline serves: 0 full, 1 half, ..."""
        return math.floor(self.lod)


def training_schedule(cfg: RunConfig, cur_nimg: int, resolution_log2: float) -> Schedule:
    """The schedule at a value of cur_nimg (growing: Karras et al. 2018, section 2 and appendix A)."""
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
    """How many times the first resolution is doubled; whole where logarithms are rounded."""
    levels = resolution_log2 - math.log2(initial_resolution)
    return float(round(levels)) if abs(levels - round(levels)) < 1e-9 else levels


def growing_stages(cfg: RunConfig, resolution_log2: float) -> list[tuple[float, float, float]]:
    """For each resolution of networks that grow, in kimg: its begin, where the next one begins to fade in, and the end.

    Nothing fades in at the last one. Empty for networks that do not grow.
    """
    sched = cfg.schedule
    if sched.lod_initial_resolution is None:
        return []
    length = sched.lod_training_kimg + sched.lod_transition_kimg
    levels = math.ceil(_levels_between(sched.lod_initial_resolution, resolution_log2))
    begins = [stage * length for stage in range(levels + 1)]
    return [(begin, begin + sched.lod_training_kimg, begin + length) for begin in begins]


def check_growing(cfg: RunConfig, resolution: int | Sequence[int]) -> None:
    """Raises ConfigError when the networks cannot grow from schedule.lod_initial_resolution to this resolution."""
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
            f"schedule.lod_initial_resolution={initial} must be a resolution of the blocks of networks for {sides[-1]} "
            f"pixels; use {' or '.join(map(str, sides))}, or null for no growing"
        )


def _smoothing_beta(cfg: RunConfig, kimg: float, minibatch_size: int) -> float:
    """The share of itself that G_ema keeps in an iteration, from its half-life in kimg."""
    half_life_kimg = cfg.schedule.G_smoothing_kimg
    if cfg.schedule.G_smoothing_rampup is not None:
        half_life_kimg = min(half_life_kimg, kimg * cfg.schedule.G_smoothing_rampup)
    return 0.5 ** (minibatch_size / (half_life_kimg * 1000)) if half_life_kimg > 0 else 0.0


def lazy_ratio(cfg: RunConfig, network: str) -> float:
    """The factor on the learning rate, and exponent on the betas, that corrects for regularization phases.

    interval / (interval + 1) (Karras et al. 2020, appendix B); 1 without lazy regularization.
    """
    if not cfg.train.lazy_regularization:
        return 1.0
    interval = cfg.train.G_reg_interval if network == "G" else cfg.train.D_reg_interval
    return interval / (interval + 1)


@dataclass(frozen=True)
class Group:
    """`minibatch_repeats` minibatches with one schedule; a run stops between groups only."""

    nimg: int
    schedule: Schedule
    repeats: int

    @property
    def end_nimg(self) -> int:
        return self.nimg + self.repeats * self.schedule.minibatch_size

    def minibatch_nimgs(self) -> list[int]:
        """cur_nimg of each minibatch."""
        return [self.nimg + i * self.schedule.minibatch_size for i in range(self.repeats)]


def group_at(cfg: RunConfig, cur_nimg: int, resolution_log2: float) -> Group:
    """The group that begins at cur_nimg."""
    return Group(cur_nimg, training_schedule(cfg, cur_nimg, resolution_log2), cfg.schedule.minibatch_repeats)


def walk(cfg: RunConfig, cur_nimg: int, resolution_log2: float) -> Iterator[Group]:
    """All groups from cur_nimg on, without end."""
    while True:
        group = group_at(cfg, cur_nimg, resolution_log2)
        yield group
        cur_nimg = group.end_nimg


def places_of_rank(nimg: int, schedule: Schedule, rank: int, world_size: int) -> list[Place]:
    """The places of a rank's micro-batches of the minibatch at nimg: number j belongs to rank j mod world_size."""
    indices = range(rank, schedule.num_micro_batches, world_size)
    return [Place(nimg, index, nimg + index * schedule.minibatch_gpu) for index in indices]
