"""Workers that come and go train the run that one worker would have trained."""

import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from support.jobs import rows_without_times, write_pictures
from support.laws import largest_difference, run, undisturbed
from support.plain import train_without_ray
from support.processes import spawn
from support.toy import toy_config, toy_state

from stylegan_ray import distributed
from stylegan_ray.run_folder import complete_checkpoints
from stylegan_ray.storage import Storage
from stylegan_ray.train.checkpoint import Snapshot, write_checkpoint
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
    cfg = toy_config(**{"train.dtype": "float64", "train.total_kimg": 0.096})
    rows = []
    for world_size, pauses in ((4, 1), (2, 1), (3, None)):
        spawn(stretch, (world_size, str(tmp_path), cfg, pauses), nprocs=world_size)
        rows += torch.load(tmp_path / f"{world_size}.pt")["rows"]
    one = undisturbed(cfg)
    assert len(complete_checkpoints(Storage.at(tmp_path / "checkpoints"))) == 3
    assert largest_difference(one["tensors"], torch.load(tmp_path / "3.pt")["tensors"]) < 1e-9
    assert [row["Progress/tick"] for row in rows] == [row["Progress/tick"] for row in one["rows"]]
    for ours, theirs in zip(one["rows"], rows, strict=True):
        assert all(ours[key] == pytest.approx(theirs[key], rel=1e-9, abs=1e-9) for key in ours)


KEYS = {
    "model.z_dim": 16, "model.w_dim": 16, "model.mapping_fmaps": 16, "model.mapping_layers": 2,
    "model.fmap_base": 256, "model.fmap_max": 32, "schedule.minibatch_size": 32, "schedule.minibatch_gpu": 8,
    "schedule.minibatch_repeats": 1, "schedule.tick_kimg": 0.128, "schedule.tick_kimg_dict": "{}",
    "schedule.G_lrate": 1e-4, "schedule.D_lrate": 1e-4, "train.dtype": "float64", "train.total_kimg": 9.6,
    "train.grid_size": "[4, 2]", "train.image_snapshot_ticks": 100, "train.checkpoint_ticks": 1,
    "cluster.num_workers": "1:4", "cluster.cpus_per_worker": 1, "run.name": "run", "cluster.wait_minutes": 5,
}  # fmt: skip
"""Four micro-batches a minibatch; steps that take long enough for nodes to come and go, and change little."""


TICK = 4
"""Minibatches between two checkpoints."""


def world_sizes(trace):
    """Of the groups of workers that have trained as far as a checkpoint, in order."""
    files = sorted(trace.glob("*-0-*.jsonl"), key=lambda path: int(path.name.split("-")[0]))
    rows = [path.read_text().splitlines() for path in files]
    return [json.loads(of_group[0])["world_size"] for of_group in rows if len(of_group) > TICK]


@pytest.mark.cluster
def test_nodes_that_go_and_come_leave_the_run_of_plain_processes(tmp_path):
    """Ray's own nodes: two of four die, the group goes on with two; one comes back, and it goes on with three."""
    local_cluster = pytest.importorskip("benchmarks.cluster.local_cluster")
    pictures, trace, log = write_pictures(tmp_path / "pictures", side=16), tmp_path / "trace", tmp_path / "log"
    trace.mkdir()
    words = ["config-f", str(pictures), *(word for key, value in KEYS.items() for word in (f"--{key}", str(value)))]
    with (
        TemporaryDirectory(prefix="sgr-", ignore_cleanup_errors=True) as folder,
        local_cluster.Cluster(Path(folder), 4) as cluster,
    ):
        env = {**cluster.env, "STYLEGAN_RAY_STORAGE": str(tmp_path)}
        driver = local_cluster.Driver([str(trace), *words, "--cluster.address", cluster.address], env, log)

        def reaches(condition, what):
            local_cluster.wait_for(lambda: driver.ended or condition(), what)
            assert condition(), f"ended before {what}:\n{driver.words()}"

        try:
            reaches(lambda: world_sizes(trace)[-1:] == [4], "a group of four")  # the first may find fewer nodes
            cluster.kill_raylet(2)
            cluster.kill_raylet(4)
            reaches(lambda: world_sizes(trace)[-1:] == [2], "a group of two")
            cluster.add(2)
            reaches(lambda: world_sizes(trace)[-1:] == [3], "a group of three")
            local_cluster.wait_for(lambda: driver.ended, "the end", 900)
            assert driver.process.returncode == 0, driver.words()
        finally:
            driver.kill()

    spawn(train_without_ray, (2, str(tmp_path / "run"), str(tmp_path / "plain.pt")), nprocs=2)
    plain, found = torch.load(tmp_path / "plain.pt"), load_file(tmp_path / "run" / "network-final.safetensors")
    assert largest_difference({name: plain["tensors"][name] for name in found}, found) < 1e-9
    assert len(rows_without_times(tmp_path / "run")) == len(plain["rows"])
