"""Workers that come and go train the run that one worker would have trained."""

import os

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from support.laws import largest_difference, run, undisturbed
from support.toy import toy_config, toy_state

from stylegan_ray import distributed
from stylegan_ray.storage import Storage
from stylegan_ray.train.checkpoint import Snapshot, complete_checkpoints, write_checkpoint
from stylegan_ray.train.resume import go_to_newest


def stretch(rank, world_size, folder, cfg, pauses):
    """One worker of a group that takes the run over from its newest checkpoint, for some ticks or to the end."""
    torch.set_num_threads(1)
    store = dist.FileStore(os.path.join(folder, f"store{world_size}"), world_size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    checkpoints, state = Storage.at(os.path.join(folder, "checkpoints")), toy_state(cfg)
    go_to_newest(state, checkpoints, print)
    rows = run(cfg, state, pauses)
    if distributed.rank() == 0:
        write_checkpoint(Snapshot.of(state, cfg), checkpoints)
        torch.save({"tensors": state.tensors(), "rows": rows}, os.path.join(folder, f"{world_size}.pt"))
    dist.destroy_process_group()


def test_four_then_two_then_three_workers_train_the_run_of_one(tmp_path):
    """In float64, so that nothing but rounding may differ; four micro-batches a minibatch, uneven for three workers."""
    cfg = toy_config(**{"train.dtype": "float64"})
    rows = []
    for world_size, pauses in ((4, 2), (2, 2), (3, None)):
        mp.spawn(stretch, (world_size, str(tmp_path), cfg, pauses), nprocs=world_size)
        rows += torch.load(tmp_path / f"{world_size}.pt")["rows"]
    one = undisturbed(cfg)
    assert len(complete_checkpoints(Storage.at(tmp_path / "checkpoints"))) == 3
    assert largest_difference(one["tensors"], torch.load(tmp_path / "3.pt")["tensors"]) < 1e-9
    assert [row["Progress/tick"] for row in rows] == [row["Progress/tick"] for row in one["rows"]]
    for ours, theirs in zip(one["rows"], rows, strict=True):
        assert all(ours[key] == pytest.approx(theirs[key], rel=1e-9, abs=1e-9) for key in ours)
