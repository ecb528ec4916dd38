"""The main job as a user runs it: one command trains, the same command continues, bit for bit."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file
from support.jobs import Job, metrics_without_times, rows_without_times, small_model, write_pictures
from support.plain import train_without_ray
from support.processes import spawn

from stylegan_ray import cli
from stylegan_ray.run_folder import complete_checkpoints
from stylegan_ray.storage import Storage

OPTIONS = [*small_model(), "--run.name", "run", "--cluster.num_workers", "2", "--data.cond"]
OPTIONS += ["--metrics.names", "fid100_tiny", "kid100_tiny", "--metrics.ticks", "2"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, pictures):
    """A run of two workers that was killed, went on, was stopped, and went on to its end: (storage, its logs)."""
    storage = tmp_path_factory.mktemp("trained")
    run, command = storage / "run", ["train", "config-f", str(pictures), *OPTIONS]
    first = Job(*command, storage=storage, log=storage / "first.log")
    first.wait_for(lambda: (run / "checkpoints" / "ckpt-000000000144" / "COMPLETE").exists())
    first.kill()
    second = Job(*command, storage=storage, log=storage / "second.log")
    second.wait_for(lambda: "continuing at 0." in second.text())
    assert cli.run(cli.stop, [str(run)]) == 0
    assert second.wait(60) == 0, second.text()
    assert not (run / "network-final.safetensors").exists(), "the stop came too late to mean anything"
    last = complete_checkpoints(Storage.at(run / "checkpoints"))[-1]
    third = Job(*command, storage=storage, log=storage / "third.log")
    assert third.wait() == 0, third.text()
    return storage, (first.text(), second.text(), third.text()), int(last.removeprefix("ckpt-"))


def test_one_command_leaves_a_whole_run(trained):
    storage, (*_, log), _ = trained
    run = storage / "run"
    names = set(os.listdir(run))
    assert {"config.yaml", "run.json", "reals.png", "fakes_init.png", "stats.jsonl", "log.txt", "tensorboard"} <= names
    assert {"fakes000000.016.png", "fakes000000.320.png", "network-final.safetensors"} <= names
    assert "network-snapshot-000000.320.safetensors" in names
    assert [row["Progress/tick"] for row in rows_without_times(run)] == list(range(6))
    rows = metrics_without_times(run)
    assert [(row["Progress/tick"], row["kimg"]) for row in rows[::2]] == [(0, 0), (2, 0.144), (4, 0.272), (5, 0.32)]
    assert [row["metric"] for row in rows] == ["fid100_tiny", "kid100_tiny"] * 4
    assert all(row["placement"] == "inline" and row["num_real"] == 20 for row in rows)
    assert f"metrics at 0.32 kimg: fid100_tiny {rows[-2]['value']:.4g}, kid" in (run / "log.txt").read_text()
    checkpoints = sorted(name for name in os.listdir(run / "checkpoints"))
    assert len(checkpoints) == 3 and checkpoints[-1] == "ckpt-000000000320"
    assert all("COMPLETE" in os.listdir(run / "checkpoints" / name) for name in checkpoints)
    stored = json.loads((run / "run.json").read_text())
    assert stored["data"]["num_images"] == 20 and stored["data"]["label_size"] == 2
    assert "2 workers on CPU" in log and str(run) in log and "fakes000000.320.png" in log
    assert "Traceback" not in log


def test_a_stop_saves_and_the_same_command_continues(trained):
    _, (first, second, third), stopped_at = trained
    assert "starting a new run" in first and "continuing at 0." in second and "Stopped" in second
    assert stopped_at >= 144 and f"continuing at {stopped_at / 1000:g} kimg from ckpt-{stopped_at:012d}" in third


def test_a_killed_and_stopped_run_ends_as_plain_processes_do_bit_for_bit(trained, tmp_path):
    """Networks, rows of ticks, and rows of metrics."""
    run = trained[0] / "run"
    spawn(train_without_ray, (2, str(run), str(tmp_path / "plain.pt")), nprocs=2)
    plain = torch.load(tmp_path / "plain.pt")
    for name, value in load_file(run / "network-final.safetensors").items():
        assert value.equal(plain["tensors"][name]), name
    assert rows_without_times(run) == plain["rows"]
    assert metrics_without_times(run) == plain["metrics"]


def test_a_finished_run_says_so(trained, pictures):
    storage = trained[0]
    job = Job("train", "config-f", str(pictures), *OPTIONS, storage=storage, log=storage / "again.log")
    assert job.wait(60) == 0
    assert "is finished at 0.32 kimg" in job.text()


def test_another_configuration_or_data_is_refused_before_anything_starts(trained, pictures, tmp_path):
    storage = trained[0]
    command = ["train", "config-f", str(pictures), *OPTIONS]
    other = Job(*command, "--loss.r1_gamma", "3", storage=storage, log=storage / "other.log")
    assert other.wait(60) == 2
    assert "loss.r1_gamma: 10.0 then, 3.0 now" in other.text()
    fewer = write_pictures(tmp_path / "fewer", num=18)
    swapped = Job("train", "config-f", str(fewer), *OPTIONS, storage=storage, log=storage / "swapped.log")
    assert swapped.wait(60) == 2
    assert "data.path" in swapped.text()
