"""A run small enough for a test: 8x8 images, a few feature maps, labels of three classes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from stylegan_ray import distributed
from stylegan_ray.config import RunConfig, load_config
from stylegan_ray.data.pyramid import downscale
from stylegan_ray.rng import SeededDraws, stream, stream_key
from stylegan_ray.train.schedule import places_of_rank, training_schedule, walk
from stylegan_ray.train.state import Batch, TrainState
from stylegan_ray.train.step import MicroBatches, place

RESOLUTION, CHANNELS, LABELS = 8, 3, 3


def toy_config(preset: str = "config-f", **overrides: Any) -> RunConfig:
    """Four micro-batches a minibatch, regularization phases every 2 and 3 minibatches, mixing and labels on."""
    keys = {
        "model.z_dim": 6, "model.w_dim": 6, "model.mapping_fmaps": 6, "model.mapping_layers": 2,
        "model.fmap_base": 32, "model.fmap_max": 6, "model.mbstd_group_size": 2,
        "schedule.minibatch_size": 8, "schedule.minibatch_gpu": 2, "schedule.minibatch_repeats": 2,
        "schedule.tick_kimg": 0.032, "schedule.tick_kimg_dict": {}, "schedule.G_smoothing_kimg": 0.05,
        "train.G_reg_interval": 2, "train.D_reg_interval": 3, "train.total_kimg": 0.192,
    }  # fmt: skip
    return load_config(preset, keys | overrides)


def toy_state(cfg: RunConfig, resolution: int | tuple[int, int] = RESOLUTION, device: str = "cpu") -> TrainState:
    return TrainState.create(cfg, resolution, CHANNELS, LABELS, device)


class ToySet:
    """Images and labels that follow from their position."""

    num_images = 12

    def labels(self, indices: np.ndarray) -> np.ndarray:
        return np.eye(LABELS, dtype=np.float32)[np.asarray(indices) % LABELS]

    def __init__(self, resolution: tuple[int, int] = (RESOLUTION, RESOLUTION)) -> None:
        self.shape = (CHANNELS, *resolution)

    def micro_batch(self, positions: range, level: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        key = stream_key(7, 0, "toy")
        images = [stream(key, p % self.num_images).integers(0, 256, self.shape, dtype=np.uint8) for p in positions]
        return torch.from_numpy(downscale(np.stack(images), level)), torch.from_numpy(self.labels(np.array(positions)))


def toy_minibatches(cfg: RunConfig, cur_nimg: int = 0, source: ToySet | None = None) -> Iterator[MicroBatches]:
    """This rank's micro-batches, minibatch by minibatch, from a clock value on."""
    source = source or ToySet()
    for group in walk(cfg, cur_nimg, math.log2(max(source.shape[1:]))):
        for nimg in group.minibatch_nimgs():
            places = places_of_rank(nimg, group.schedule, distributed.rank(), distributed.world_size())
            size = group.schedule.minibatch_gpu
            level = group.schedule.level
            yield [source.micro_batch(range(place.position, place.position + size), level) for place in places]


def placed(cfg: RunConfig, state: TrainState, source: ToySet | None = None) -> list[Batch]:
    """The micro-batches of the first minibatch, as losses take them."""
    source = source or ToySet()
    schedule = training_schedule(cfg, 0, math.log2(max(source.shape[1:])))
    return place(next(toy_minibatches(cfg, 0, source)), state, cfg, SeededDraws(cfg.run.seed, 0, source), schedule)
