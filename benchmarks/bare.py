"""The training loop alone in a process: images decoded beforehand, no files, no Ray; what the job is held against.

python -m benchmarks.bare CONFIG.yaml [THREADS] prints the rows of its ticks as JSON.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from stylegan_ray.config import RunConfig, load_config
from stylegan_ray.data import open_dataset
from stylegan_ray.data.reals import RealsSource, label_source_of
from stylegan_ray.distributed import prepare_process
from stylegan_ray.train.auto import with_choices
from stylegan_ray.train.loop import MicroBatches, training_loop
from stylegan_ray.train.schedule import places_of_rank, walk
from stylegan_ray.train.state import TrainState


def train_bare(cfg: RunConfig, threads: int | None) -> dict[str, Any]:
    """Trains a new run to total_kimg; returns the threads it took and the rows of its ticks."""
    prepare_process(cfg, threads)
    dataset = open_dataset(cfg.data, cfg.run.seed)
    cfg = with_choices(cfg, dataset.resolution)
    on_gpu = torch.cuda.is_available() and cfg.cluster.gpus_per_worker != 0
    device = torch.device("cuda" if on_gpu else "cpu")
    state = TrainState.create(cfg, dataset.resolution, dataset.num_channels, dataset.label_size, device)
    decoded = list(minibatches(cfg, RealsSource.of(cfg, dataset)))
    pauses = training_loop(state, cfg, iter(decoded), label_source_of(cfg.data, dataset))
    rows = [pause.stats for pause in pauses if pause.stats is not None]
    return {"threads": torch.get_num_threads(), "rows": rows}


def minibatches(cfg: RunConfig, source: RealsSource) -> Iterator[MicroBatches]:
    """The minibatches of a whole run by one process."""
    for group in walk(cfg, 0, math.log2(max(source.dataset.resolution))):
        if group.nimg >= cfg.train.total_kimg * 1000:
            return
        for nimg in group.minibatch_nimgs():
            yield [
                micro_batch(source, place.position, group.schedule.minibatch_gpu, group.schedule.level)
                for place in places_of_rank(nimg, group.schedule, rank=0, world_size=1)
            ]


def micro_batch(source: RealsSource, position: int, num: int, level: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images uint8 [N,C,H,W] and labels [N,L] of consecutive positions."""
    images, labels = source.micro_batch(np.arange(position, position + num), level)
    return torch.from_numpy(images), torch.from_numpy(labels)


if __name__ == "__main__":
    preset, *threads = sys.argv[1:]
    print(json.dumps(train_bare(load_config(preset), int(threads[0]) if threads else None)))
