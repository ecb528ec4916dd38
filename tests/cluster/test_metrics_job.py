"""A job with metrics on the other core, whose metric task is killed during the training."""

import json
import os
import signal
from pathlib import Path

import pytest
from safetensors.torch import load_file
from support.jobs import Job, metrics_without_times, rows_without_times, small_model, write_pictures

pytestmark = pytest.mark.cluster
OPTIONS = [*small_model(), "--run.name", "run", "--cluster.cpus_per_worker", "1", "--train.total_kimg", "4"]
OPTIONS += ["--schedule.tick_kimg", "0.5"]
METRICS = ["--metrics.names", "fid2k_tiny", "--metrics.ticks", "2", "--metrics.placement", "async"]


def metric_tasks(job):
    """Process ids of the Ray tasks that compute metrics for a job."""
    return {int(pid) for pid in filter(str.isdigit, os.listdir("/proc")) if descends(int(pid), job.process.pid)}


def descends(pid, ancestor):
    """Whether a process is a metric task and was started by the ancestor or by what that has started."""
    try:
        if not Path(f"/proc/{pid}/cmdline").read_text().startswith("ray::metric_task"):
            return False
        while pid not in (0, ancestor):
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return False
    return pid == ancestor


def test_killed_metric_tasks_never_touch_the_training(tmp_path):
    pictures = write_pictures(tmp_path / "pictures")
    plain = Job("train", "config-f", str(pictures), *OPTIONS, storage=tmp_path / "a", log=tmp_path / "a.log")
    assert plain.wait(300) == 0, plain.text()
    job = Job("train", "config-f", str(pictures), *OPTIONS, *METRICS, storage=tmp_path / "b", log=tmp_path / "b.log")
    killed = set()
    for _ in range(2):
        job.wait_for(lambda: metric_tasks(job) - killed)
        for pid in metric_tasks(job) - killed:
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
    assert job.wait(300) == 0, job.text()
    assert len(killed) >= 2 and "beside the training" in job.text() and "Traceback" not in job.text()
    alone, beside = tmp_path / "a" / "run", tmp_path / "b" / "run"
    expected = load_file(alone / "network-final.safetensors")
    assert all(value.equal(expected[name]) for name, value in load_file(beside / "network-final.safetensors").items())
    assert rows_without_times(beside) == rows_without_times(alone)
    rows = metrics_without_times(beside)
    assert rows[-1]["kimg"] == 4 and all(row["value"] is not None for row in rows)
    best = min(rows, key=lambda row: row["value"])
    assert (beside / "best-fid2k_tiny.safetensors").exists()
    content = (beside / "best-fid2k_tiny.safetensors").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert header["__metadata__"]["cur_nimg"] == str(round(best["kimg"] * 1000))
    assert not os.listdir(beside / "metrics-pending")
