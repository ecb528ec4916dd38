"""The run that a job is compared with: the loop in plain processes, without Ray and without faults."""

from __future__ import annotations

import json
import os

import torch
import torch.distributed as dist

from stylegan_ray.config import load_config
from stylegan_ray.data import open_dataset
from stylegan_ray.data.reals import RealsSource
from stylegan_ray.distributed import prepare_process
from stylegan_ray.train.loop import training_loop
from stylegan_ray.train.metrics import GroupMetrics, is_due
from stylegan_ray.train.schedule import places_of_rank, walk
from stylegan_ray.train.state import TrainState


def minibatches(cfg, source, rank, world_size):
    """This rank's minibatches, decoded in this process."""
    for group in walk(cfg, 0, 3.0):
        for nimg in group.minibatch_nimgs():
            micro_batches = []
            for place in places_of_rank(nimg, group.schedule, rank, world_size):
                positions = range(place.position, place.position + group.schedule.minibatch_gpu)
                micro_batches.append(tuple(map(torch.from_numpy, source.micro_batch(list(positions)))))
            yield micro_batches


def train_without_ray(rank, world_size, run, out):
    """One process of an undisturbed run."""
    store = dist.FileStore(f"{out}.store", world_size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    cfg = load_config(os.path.join(run, "config.yaml"))
    prepare_process(cfg, threads=1)
    dataset = open_dataset(cfg.data, cfg.run.seed)
    state = TrainState.create(cfg, dataset.resolution, dataset.num_channels, dataset.label_size)
    source = RealsSource.of(cfg, dataset)
    group = GroupMetrics(cfg, dataset, torch.device("cpu")) if cfg.metrics.names else None
    rows, metrics = [], group.rows(state, 0) if group else []
    for pause in training_loop(state, cfg, minibatches(cfg, source, rank, world_size), dataset):
        rows.append(pause.stats)
        if group and is_due(cfg, pause.stats["Progress/tick"], pause.done):
            metrics += group.rows(state, pause.stats["Progress/tick"])
    if rank == 0:
        rows = [{k: v for k, v in row.items() if not k.startswith(("Timing/", "Resources/"))} for row in rows]
        metrics = [{k: v for k, v in row.items() if k not in ("seconds", "time", "total_sec")} for row in metrics]
        found = json.loads(json.dumps({"rows": rows, "metrics": metrics}))
        torch.save({"tensors": state.tensors(), **found}, out)
    dist.destroy_process_group()
