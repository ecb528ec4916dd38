"""The main job as a user runs it: one command trains, the same command continues, bit for bit."""

import json
import os

import pytest
from safetensors.torch import load_file
from support.jobs import Job, metrics_without_times, rows_without_times, small_model, write_pictures

from stylegan_ray import cli
from stylegan_ray.run_folder import complete_checkpoints
from stylegan_ray.storage import Storage

OPTIONS = [*small_model(), "--run.name", "run", "--cluster.num_workers", "2", "--data.cond"]
OPTIONS += ["--metrics.names", "fid100_tiny", "kid100_tiny", "--metrics.ticks", "2"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, pictures):
    """A run of two workers from beginning to end: (storage, log)."""
    storage = tmp_path_factory.mktemp("undisturbed")
    job = Job("train", "config-f", str(pictures), *OPTIONS, storage=storage, log=storage / "log")
    assert job.wait() == 0, job.text()
    return storage, job.text()


def test_one_command_leaves_a_whole_run(undisturbed, pictures):
    storage, log = undisturbed
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


def test_a_run_that_is_killed_and_then_stopped_ends_bit_for_bit(undisturbed, pictures, tmp_path):
    """Killed after a checkpoint in the middle; the same command goes on, is stopped, and goes on again."""
    run, command = tmp_path / "run", ["train", "config-f", str(pictures), *OPTIONS]
    first = Job(*command, storage=tmp_path, log=tmp_path / "first.log")
    first.wait_for(lambda: (run / "checkpoints" / "ckpt-000000000144" / "COMPLETE").exists())
    first.kill()
    second = Job(*command, storage=tmp_path, log=tmp_path / "second.log")
    second.wait_for(lambda: "continuing at 0." in second.text())
    assert cli.run(cli.stop, [str(run)]) == 0
    assert second.wait(60) == 0, second.text()
    assert "Stopped" in second.text()
    assert not (run / "network-final.safetensors").exists(), "the stop came too late to mean anything"
    last = complete_checkpoints(Storage.at(run / "checkpoints"))[-1]
    done = json.loads((run / "checkpoints" / last / "state.json").read_text())["cur_nimg"]
    assert last == f"ckpt-{done:012d}" and done >= 144
    third = Job(*command, storage=tmp_path, log=tmp_path / "third.log")
    assert third.wait() == 0, third.text()
    assert f"continuing at {done / 1000:g} kimg" in third.text()

    whole, resumed = undisturbed[0] / "run", tmp_path / "run"
    expected = load_file(whole / "network-final.safetensors")
    for name, value in load_file(resumed / "network-final.safetensors").items():
        assert value.equal(expected[name]), name
    assert rows_without_times(resumed) == rows_without_times(whole)
    assert metrics_without_times(resumed) == metrics_without_times(whole)


def test_a_finished_run_says_so(undisturbed, pictures):
    storage, _ = undisturbed
    job = Job("train", "config-f", str(pictures), *OPTIONS, storage=storage, log=storage / "again.log")
    assert job.wait(60) == 0
    assert "is finished at 0.32 kimg" in job.text()


def test_another_configuration_or_data_is_refused_before_anything_starts(undisturbed, pictures, tmp_path):
    storage, _ = undisturbed
    command = ["train", "config-f", str(pictures), *OPTIONS]
    other = Job(*command, "--loss.r1_gamma", "3", storage=storage, log=storage / "other.log")
    assert other.wait(60) == 2
    assert "loss.r1_gamma: 10.0 then, 3.0 now" in other.text()
    fewer = write_pictures(tmp_path / "fewer", num=18)
    swapped = Job("train", "config-f", str(fewer), *OPTIONS, storage=storage, log=storage / "swapped.log")
    assert swapped.wait(60) == 2
    assert "data.path" in swapped.text()
