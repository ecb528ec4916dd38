"""Training toy runs alone and on several workers, and comparing the results."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from support.processes import spawn
from support.toy import ToySet, toy_minibatches, toy_state

from stylegan_ray.train.loop import training_loop

WALL_CLOCK = ("Timing/", "Resources/")
KEPT = {}


def run(cfg, state, pauses=None, source=None):
    """Trains to the end or for a number of pauses; returns the rows of ticks without times."""
    source, rows = source or ToySet(), []
    loop = training_loop(state, cfg, toy_minibatches(cfg, state.cur_nimg, source), source)
    for number, pause in enumerate(loop, 1):
        rows.append({k: v for k, v in pause.stats.items() if not k.startswith(WALL_CLOCK)})
        if number == pauses:
            break
    return rows


def undisturbed(cfg):
    """The run of one worker, in this process; tests that compare with the same one share it."""
    text = cfg.to_yaml()
    if text not in KEPT:
        KEPT[text] = whole_run(cfg)
    return KEPT[text]


def whole_run(cfg):
    """Final tensors and rows of a run by this process, of which there may be others in its group."""
    state = toy_state(cfg)
    rows = run(cfg, state)
    return {"tensors": state.tensors(), "rows": rows}


def worker(rank, world_size, folder, cfg):
    torch.set_num_threads(1)
    store = dist.FileStore(os.path.join(folder, f"store{world_size}"), world_size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    torch.save(whole_run(cfg), os.path.join(folder, f"{world_size}-{rank}.pt"))
    dist.destroy_process_group()


def trained_by(world_size, folder, cfg):
    """The run of several workers, each a process."""
    spawn(worker, (world_size, str(folder), cfg), nprocs=world_size)
    ranks = [torch.load(folder / f"{world_size}-{rank}.pt") for rank in range(world_size)]
    for other in ranks[1:]:  # replicas stay equal bit for bit
        assert all(torch.equal(value, ranks[0]["tensors"][name]) for name, value in other["tensors"].items())
        assert other["rows"] == ranks[0]["rows"]
    return ranks[0]


def largest_difference(a, b, parts=""):
    """Largest difference of a tensor relative to its largest value, over the tensors whose names begin with parts."""
    worst = 0.0
    for name, value in a.items():
        if not name.startswith(parts):
            continue
        scale = value.abs().max().clamp(min=1e-3)
        worst = max(worst, ((value - b[name]).abs().max() / scale).item())
    return worst
