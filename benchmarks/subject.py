"""What benchmarks without a data set measure: a training state, and random images to feed it."""

from __future__ import annotations

import math

import numpy as np
import torch

from stylegan_ray import distributed
from stylegan_ray.config import ConfigError, RunConfig
from stylegan_ray.rng import SeededDraws, stream, stream_key
from stylegan_ray.train.auto import with_choices
from stylegan_ray.train.optim import update_ema
from stylegan_ray.train.schedule import Schedule, places_of_rank, training_schedule
from stylegan_ray.train.state import TrainState
from stylegan_ray.train.stats import StopWatch
from stylegan_ray.train.step import Phase, phases_of, place, run_phase

RESOLUTION, NUM_CLASSES = 256, 10
"""Where the configuration leaves them to the data."""


class RandomImages:
    """Random images and labels."""

    num_images = 1000

    def __init__(self, seed: int, shape: tuple[int, int, int], label_size: int) -> None:
        self.seed, self.shape, self.label_size = seed, shape, label_size

    def labels(self, indices: np.ndarray) -> np.ndarray:
        """One-hot labels [n, label_size]."""
        if not self.label_size:
            return np.zeros((len(indices), 0), dtype=np.float32)
        return np.eye(self.label_size, dtype=np.float32)[np.asarray(indices) % self.label_size]

    def micro_batch(self, position: int, num: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Images uint8 [N,C,H,W] and labels [N,label_size] of consecutive positions."""
        pixels = stream(stream_key(self.seed, 0, "bench"), position).integers(0, 256, (num, *self.shape), np.uint8)
        return torch.from_numpy(pixels), torch.from_numpy(self.labels(np.arange(position, position + num)))


class Subject:
    """A training state with this rank's part of a minibatch, ready for any phase.

    A growing network is at full resolution, or where the given schedule says.
    """

    def __init__(self, cfg: RunConfig, device: torch.device, schedule: Schedule | None = None) -> None:
        self.cfg, self.device = cfg, device
        self.schedule = schedule or schedule_of(cfg)
        (channels, height, width), level = image_shape(cfg), self.schedule.level
        images = RandomImages(cfg.run.seed, (channels, height >> level, width >> level), label_size_of(cfg))
        self.state = new_state(cfg, device)
        places = places_of_rank(0, self.schedule, distributed.rank(), distributed.world_size())
        micro_batches = [images.micro_batch(place.position, self.schedule.minibatch_gpu) for place in places]
        draws = SeededDraws(cfg.run.seed, 0, images)
        self.batches = place(micro_batches, self.state, cfg, draws, self.schedule)
        phases = [phase for network in ("G", "D") for phase in phases_of(cfg, network, self.schedule)]
        self.phases: dict[str, Phase] = {phase.part: phase for phase in phases}
        self.watch = StopWatch(device)

    @property
    def is_compiled(self) -> bool:
        """Whether train.compile is set and losses could be compiled."""
        return self.state.compiled.wanted and not self.state.compiled.reasons

    def run_phase(self, part: str) -> None:
        """A phase as training runs it; that of G updates G_ema too."""
        run_phase(self.phases[part], self.state, self.batches, self.watch)
        if part == "G":
            update_ema(self.state.G_ema, self.state.G, self.schedule.G_smoothing_beta)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def new_state(cfg: RunConfig, device: torch.device) -> TrainState:
    """A state with new networks, whose optimizers have made a step, so that their memory is allocated."""
    channels, height, width = image_shape(cfg)
    state = TrainState.create(cfg, (height, width), channels, label_size_of(cfg), device)
    for optimizer in state.optimizers.values():
        optimizer.load(optimizer.tensors(), num_steps=1)
    return state


def resolved(cfg: RunConfig) -> RunConfig:
    """The configuration with the keys in train.auto chosen, as the job chooses them."""
    return with_choices(cfg, image_shape(cfg)[1:])


def image_shape(cfg: RunConfig) -> tuple[int, int, int]:
    """(C, H, W) of the training images."""
    resolution = cfg.data.resolution or RESOLUTION
    height, width = (resolution, resolution) if isinstance(resolution, int) else resolution
    return cfg.data.channels or 3, height, width


def label_size_of(cfg: RunConfig) -> int:
    """Number of classes."""
    return (cfg.data.max_label_size or NUM_CLASSES) if cfg.data.cond else 0


def schedule_of(cfg: RunConfig, resolution: int | None = None) -> Schedule:
    """The schedule at a resolution of the larger side; None: at full resolution, where a run spends its time."""
    at = cfg.with_overrides({"schedule.lod_initial_resolution": resolution})
    return training_schedule(at, 0, resolution_log2(cfg))


def resolution_log2(cfg: RunConfig) -> float:
    """log2 of the larger side."""
    return math.log2(max(image_shape(cfg)[1:]))


def chosen_device(name: str | None) -> torch.device:
    """The device of a name; None: the GPU where there is one."""
    chosen = name or ("cuda" if torch.cuda.is_available() else "cpu")
    if chosen.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"--device {chosen}: torch sees no GPU here; leave it out, or give cpu")
    return torch.device(chosen)
