"""The main job as a user runs it: one command trains, the same command continues, bit for bit."""

import json
import os
import random
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.jobs import Job, metrics_without_times, newest_tick, rows_without_times, small_model, write_pictures
from support.plain import train_without_ray
from support.processes import spawn

from benchmarks.cluster.local_cluster import DECODER, TRAINING_WORKER, command_of, descendants, kill_while_running
from stylegan_ray import cli
from stylegan_ray.run_folder import complete_checkpoints
from stylegan_ray.storage import Storage

OPTIONS = [*small_model(), "--run.name", "run", "--cluster.num_workers", "2", "--data.cond"]
OPTIONS += ["--metrics.names", "fid100_tiny", "kid100_tiny"]


@dataclass(frozen=True)
class Trained:
    """A run of two workers that was killed and went on to its end through faults."""

    storage: Path
    options: list[str]
    logs: list[str]
    """What its commands wrote."""
    kimg_of_metrics: list[tuple[int, float]]
    """Tick and kimg of each row of a metric."""
    stopped_at: int | None = None
    """cur_nimg of a stop between the kill and the end."""

    @property
    def run(self):
        return self.storage / "run"


LENGTHS = {"a kill": [(0, 0), (4, 0.272), (8, 0.48)], "all": [(0, 0), (8, 0.528), (15, 0.96)]}
"""Ticks with metrics and their kimg: every fourth or eighth tick and the last one. One fault needs half a run."""


@pytest.fixture(scope="module", params=["a kill", pytest.param("all", marks=pytest.mark.cluster)])
def trained(request, tmp_path_factory, pictures):
    """Killed, and continued to its end; "all": stopped in between, and faults after that."""
    storage, kimg_of_metrics = tmp_path_factory.mktemp("trained"), LENGTHS[request.param]
    _, (metric_ticks, _), (_, total_kimg) = kimg_of_metrics
    options = [*OPTIONS, "--metrics.ticks", str(metric_ticks), "--train.total_kimg", str(total_kimg)]
    run, command, logs, stopped_at = storage / "run", ["train", "config-f", str(pictures), *options], [], None
    first = Job(*command, storage=storage, log=storage / "first.log")
    try:
        first.wait_for(lambda: newest_checkpoint(run) >= 80)
    finally:
        if first.process.poll() is None:
            first.kill()
    logs.append(first.text())
    if request.param == "all":
        second = Job(*command, storage=storage, log=storage / "second.log")
        second.wait_for(lambda: "continuing at 0." in second.text())
        assert cli.run(cli.stop, [str(run)]) == 0
        assert second.wait(60) == 0, second.text()
        assert not (run / "network-final.safetensors").exists(), "the stop came too late to mean anything"
        stopped_at = newest_checkpoint(run)
        logs.append(second.text())
    last = Job(*command, storage=storage, log=storage / "last.log")
    try:
        if request.param == "all":
            inject_faults(last, run)
        assert last.wait(600) == 0, last.text()
    finally:
        if last.process.poll() is None:
            last.kill()
    return Trained(storage, options, [*logs, last.text()], kimg_of_metrics, stopped_at)


def newest_checkpoint(run):
    """cur_nimg of the newest complete checkpoint, -1 without one. Not of a certain one: those that wait are dropped."""
    names = complete_checkpoints(Storage.at(run / "checkpoints")) if (run / "checkpoints").exists() else []
    return int(names[-1].removeprefix("ckpt-")) if names else -1


def inject_faults(job, run):
    """One fault after the other, once the job has finished two more ticks."""
    begun = newest_tick(run)
    job.wait_for(lambda: newest_tick(run) >= begun + 2, 300)
    for fault in (kill_decoder, kill_worker, lose_storage):
        fault(job, run)


def kill_decoder(job, run):
    kill_while_running(lambda: processes(job, DECODER), DECODER)
    job.wait_for(lambda: "a decoding process died" in job.text(), 300)


def kill_worker(job, run):
    reached = newest_tick(run)
    os.kill(random.choice(processes(job, TRAINING_WORKER)), signal.SIGKILL)
    job.wait_for(lambda: "was killed" in job.text() and newest_tick(run) >= reached + 2, 300)


def lose_storage(job, run):
    (run / "checkpoints").rename(run / "away")
    (run / "checkpoints").touch()
    job.wait_for(lambda: "storage does not take" in job.text(), 300)
    (run / "checkpoints").unlink()
    (run / "away").rename(run / "checkpoints")


def processes(job, title):
    return [pid for pid in descendants(job.process.pid) if command_of(pid).startswith(title)]


def test_one_command_leaves_a_whole_run(trained):
    run, log = trained.run, trained.logs[-1]
    names = set(os.listdir(run))
    assert {"config.yaml", "run.json", "reals.png", "fakes_init.png", "stats.jsonl", "log.txt", "tensorboard"} <= names
    last_tick, total_kimg = trained.kimg_of_metrics[-1]
    end = f"{total_kimg:010.3f}"
    assert {"fakes000000.016.png", f"fakes{end}.png", "network-final.safetensors"} <= names
    assert f"network-snapshot-{end}.safetensors" in names
    assert [row["Progress/tick"] for row in rows_without_times(run)] == list(range(last_tick + 1))
    rows = metrics_without_times(run)
    assert [(row["Progress/tick"], row["kimg"]) for row in rows[::2]] == trained.kimg_of_metrics
    assert [row["metric"] for row in rows] == ["fid100_tiny", "kid100_tiny"] * 3
    assert all(row["placement"] == "inline" and row["num_real"] == 20 for row in rows)
    assert f"metrics at {total_kimg} kimg: fid100_tiny {rows[-2]['value']:.4g}, kid" in (run / "log.txt").read_text()
    checkpoints = sorted(name for name in os.listdir(run / "checkpoints"))
    assert len(checkpoints) == 3 and newest_checkpoint(run) == total_kimg * 1000
    assert all("COMPLETE" in os.listdir(run / "checkpoints" / name) for name in checkpoints)
    stored = json.loads((run / "run.json").read_text())
    assert stored["data"]["num_images"] == 20 and stored["data"]["label_size"] == 2
    assert "2 workers on CPU" in log and str(run) in log and f"fakes{end}.png" in log
    assert "Traceback" not in log


def test_the_same_command_continues_after_a_kill_and_after_a_stop(trained):
    first, then, *_, last = [*trained.logs, trained.logs[-1]]
    assert "starting a new run" in first and "continuing at 0." in then
    if (nimg := trained.stopped_at) is not None:
        assert "Stopped" in then
        assert nimg >= 80 and f"continuing at {nimg / 1000:g} kimg from ckpt-{nimg:012d}" in last


def test_faults_are_named_and_the_run_continues(trained):
    log = trained.logs[-1]
    faults = [line for line in log.splitlines() if line.startswith("fault: ")]
    if trained.stopped_at is None:
        (lost,) = faults
        assert "the driver or the whole cluster was lost" in lost and "continuing at 0." in lost
    else:
        _, worker, storage = faults
        assert "continuing at 0." in worker and "from ckpt-" in worker and "the run was at" in worker
        assert "ckpt-" in storage and "continues" in storage and "storage" in log.partition(storage)[2]
    kept = (trained.run / "log.txt").read_text()
    assert all(line in kept for line in faults), kept


def test_a_killed_run_with_faults_ends_as_plain_processes_do_bit_for_bit(trained, tmp_path):
    """Networks, rows of ticks, and rows of metrics."""
    run = trained.run
    spawn(train_without_ray, (2, str(run), str(tmp_path / "plain.pt")), nprocs=2)
    plain = torch.load(tmp_path / "plain.pt")
    for name, value in load_file(run / "network-final.safetensors").items():
        assert value.equal(plain["tensors"][name]), name
    assert rows_without_times(run) == plain["rows"]
    assert metrics_without_times(run) == plain["metrics"]


@pytest.fixture
def again(trained, monkeypatch, capsys):
    """Runs the train command once more with other words, in this process; returns its status and what it wrote."""

    def run(*words):
        monkeypatch.setenv("STYLEGAN_RAY_STORAGE", str(trained.storage))
        status = cli.run(cli.train, ["config-f", *words])
        return status, "".join(capsys.readouterr())

    return run


def test_a_finished_run_says_so(trained, again, pictures):
    status, text = again(str(pictures), *trained.options)
    assert status == 0 and f"is finished at {trained.kimg_of_metrics[-1][1]} kimg" in text


def test_another_configuration_or_data_is_refused_before_anything_starts(trained, again, pictures, tmp_path):
    status, text = again(str(pictures), *trained.options, "--loss.r1_gamma", "3")
    assert status == 2 and "loss.r1_gamma: 10.0 then, 3.0 now" in text
    fewer = write_pictures(tmp_path / "fewer", num=18)
    status, text = again(str(fewer), *trained.options)
    assert status == 2 and "data.path" in text
