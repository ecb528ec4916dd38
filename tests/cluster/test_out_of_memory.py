"""Running out of memory: what is recognized, that it ends a run soon, and which keys the line names."""

import os
import subprocess
import sys
import time

import pytest
import torch

ray = pytest.importorskip("ray")

from support.jobs import ROOT, isolated, small_model  # noqa: E402

from stylegan_ray.cluster.faults import MOST_OF_MEMORY, FaultLog, is_transient, too_many  # noqa: E402
from stylegan_ray.cluster.out_of_memory import ADVICE, is_out_of_memory  # noqa: E402
from stylegan_ray.config import RunConfig  # noqa: E402
from stylegan_ray.machine import cgroups  # noqa: E402
from stylegan_ray.machine.memory import available_bytes, machine_bytes  # noqa: E402
from stylegan_ray.storage import Storage  # noqa: E402


def cpu_error():
    try:
        torch.empty(1 << 55)
    except RuntimeError as error:
        return error


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), cpu_error()])
def test_lack_of_memory_is_no_fault_that_may_pass(error):
    assert is_out_of_memory(error) and not is_transient(error)
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_the_advice_names_keys_that_there_are():
    named = [word.strip("(),.;") for word in ADVICE.replace("--", " ").split() if "." in word.strip("(),.;")]
    assert named and set(named) <= set(RunConfig().flat())


def log_with(folder, *kills):
    log = FaultLog(Storage.at(folder))
    for number, by_node in enumerate(kills):
        if number:
            log.add_fault("worker 0 (process 7 on 10.0.0.2) was killed")
        log.add_start(160, 2, "continuing", 0.2, by_node)
    return log


def test_what_the_kernel_killed_since_the_last_group_was_for_memory(tmp_path):
    log = log_with(tmp_path, {"10.0.0.2": 3, "10.0.0.3": 0}, {"10.0.0.2": 4, "10.0.0.3": 0})
    faults = [row for row in log.rows() if "fault" in row]
    assert [row["kind"] for row in faults] == ["lost", "memory"] and "node 10.0.0.2 ran out of memory" in faults[1][
        "fault"
    ]
    assert log.end() is None


def test_a_kill_of_another_kind_is_no_lack_of_memory(tmp_path):
    """A spot machine that is taken away, and one that has started again with a count from zero."""
    log = log_with(tmp_path, {"10.0.0.2": 3}, {"10.0.0.3": 9}, {"10.0.0.3": 9}, {"10.0.0.2": 1})
    assert not any(row.get("kind") == "memory" for row in log.rows())


def test_a_second_death_for_memory_at_one_checkpoint_ends_the_run(tmp_path):
    log = log_with(tmp_path, *({"10.0.0.2": number} for number in range(MOST_OF_MEMORY + 1)))
    state, reason = log.end()
    assert state == "failed" and ADVICE in reason and "node 10.0.0.2 ran out of memory" in reason


def test_deaths_with_a_checkpoint_between_them_do_not():
    rows = []
    for nimg in range(0, 1000, 100):
        rows += [{"start": nimg}, {"fault": "x", "kind": "memory", "time": time.time()}]
    assert too_many(rows, time.time()) is None


def test_the_count_of_the_kernel_is_read_in_both_versions_of_control_groups(tmp_path, monkeypatch):
    (tmp_path / "own").write_text("0::/job\n")
    (tmp_path / "job").mkdir()
    (tmp_path / "vmstat").write_text("nr_free_pages 7\noom_kill 5\n")
    for name, value in {"ROOT": tmp_path, "OWN": tmp_path / "own", "VMSTAT": tmp_path / "vmstat"}.items():
        monkeypatch.setattr(cgroups, name, value)
    assert cgroups.oom_kills() == 5
    (tmp_path / "job" / "memory.events").write_text("low 0\noom 2\noom_kill 1\n")
    assert cgroups.oom_kills() == 1
    (tmp_path / "own").write_text("4:memory:/job\n")
    (tmp_path / "memory" / "job").mkdir(parents=True)
    (tmp_path / "memory" / "job" / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
    assert cgroups.oom_kills() == 3


HOG = """
import sys, threading, time
def hog():
    while "RayTrainWorker" not in open("/proc/self/cmdline").read():
        time.sleep(0.2)
    time.sleep(5)
    kept = bytearray(int({bytes}))
    kept[::4096] = b"x" * len(kept[::4096])
    time.sleep(600)
if "default_worker.py" in " ".join(sys.orig_argv):
    threading.Thread(target=hog, daemon=True).start()
"""
HOG_BYTES = 4 << 30


@pytest.mark.cluster
@pytest.mark.skipif((available_bytes() or 0) < 3 * HOG_BYTES, reason=f"takes {HOG_BYTES >> 30} GiB of memory")
def test_workers_that_ray_kills_for_memory_end_the_run_with_the_keys_that_help(pictures, tmp_path):
    """Each worker takes so much memory that the node's share in use, by Ray's count, goes beyond its threshold."""
    used = 1 - (available_bytes() or 0) / machine_bytes()
    threshold = used + 0.7 * HOG_BYTES / machine_bytes()
    (tmp_path / "sitecustomize.py").write_text(HOG.format(bytes=HOG_BYTES))
    env = {**os.environ, "STYLEGAN_RAY_STORAGE": str(tmp_path), "PYTHONPATH": f"{tmp_path}:{ROOT}"} | {
        "RAY_memory_usage_threshold": f"{threshold:.4f}", "RAY_memory_monitor_refresh_ms": "250",
    }  # fmt: skip
    words = [*small_model(), "--run.name", "run", "--train.total_kimg", "600", "--train.checkpoint_ticks", "100000"]
    command = [sys.executable, str(ROOT / "jobs" / "train.py"), "config-f", str(pictures), *words]
    done = subprocess.run(isolated(command), env=env, capture_output=True, text=True, timeout=500)
    assert done.returncode == 1, done.stdout + done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "deaths for lack of memory at one checkpoint" in errors[0], done.stdout + done.stderr
    assert "train.recompute_activations" in errors[0] and "Traceback" not in done.stderr
