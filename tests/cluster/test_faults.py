"""Faults: what ends a job, what is said of a fault, and how many are too many (test_job.py injects some)."""

import json
import os
import subprocess
import sys

import pytest
import torch
from support.jobs import ROOT, isolated, small_model

from stylegan_ray.cluster.faults import (
    MOST_OF_DEVICES_PER_HOUR,
    MOST_PER_HOUR,
    MOST_WITHOUT_PROGRESS,
    FaultCallback,
    FaultLog,
    Terminated,
    describe,
    is_transient,
    too_many,
)
from stylegan_ray.distributed import LostPeerError
from stylegan_ray.run_folder import FAULTS
from stylegan_ray.storage import Storage

ray = pytest.importorskip("ray")


ALONE = """
import os, subprocess, sys, time
code = subprocess.run(sys.argv[1:]).returncode
def others():
    found = []
    for pid in os.listdir("/proc"):
        if pid.isdigit() and int(pid) not in (1, os.getpid()):
            try:
                if open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0] != "Z":
                    found.append(open(f"/proc/{pid}/cmdline").read().replace(chr(0), " ")[:80])
            except OSError:
                pass
    return found
end = time.monotonic() + 20
while others() and time.monotonic() < end:
    time.sleep(0.2)
print("left behind:", others())
sys.exit(code)
"""


@pytest.mark.cluster
@pytest.mark.skipif(isolated(["x"]) == ["x"], reason="needs the right to make a process namespace")
def test_an_error_that_would_come_again_ends_the_job_at_once(pictures, tmp_path):
    """Learning rates that make NaN: no retry, status 1, a clear word, and no process left."""
    options = [*small_model(), "--run.name", "run", "--schedule.D_lrate", "1e30", "--train.on_nonfinite", "error"]
    command = [sys.executable, str(ROOT / "jobs" / "train.py"), "config-f", str(pictures), *options]
    env = {**os.environ, "STYLEGAN_RAY_STORAGE": str(tmp_path)}
    done = subprocess.run(
        isolated([sys.executable, "-c", ALONE, *command]), env=env, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "is not finite at nimg" in done.stderr and "train.on_nonfinite=error" in done.stderr
    assert "left behind: []" in done.stdout, done.stdout
    assert "Traceback" not in done.stderr and "continuing" not in done.stdout
    assert json.loads((tmp_path / "run" / "run.json").read_text())["ended"].startswith("failed: ")


class Died(ray.exceptions.RayActorError):
    def __init__(self, text):
        super().__init__(error_msg=text)


KILLED = (
    "The actor died unexpectedly.\n\tpid: 471\n\tip: 10.0.0.2\nThe actor is dead because its worker process has died."
)


LOST = LostPeerError("sum_over_ranks", "Connection\nreset")


@pytest.mark.parametrize(
    ("errors", "words"),
    [
        ({0: LOST, 1: Died(KILLED)}, "worker 1 (process 471 on 10.0"),
        ({1: Died("\tip: 10.0.0.2\nThe actor died because its node has died.")}, "worker 1 died with its node 10"),
        ({0: Died("\tpid: 7\n\tip: 10.0.0.2\nthe node running low on memory")}, "because the node ran out of memory"),
        ({0: LOST, 1: OSError(28, "No space")}, "worker 1 failed: OSError: "),
        ({0: LOST}, "worker 0 lost the others: "),
        ({0: RuntimeError("gloo: Connection reset"), 1: LOST}, "worker 0 failed: RuntimeError"),
        ({0: Terminated("received SIGTERM and ended after"), 1: LOST}, "worker 0 received SIGTERM"),
    ],
)  # fmt: skip
def test_causes_are_named_rather_than_consequences(errors, words):
    assert words in describe(errors) and "\n" not in describe(errors)


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (OSError("storage"), True),
        (LOST, True),
        (torch.distributed.DistError("store"), True),
        (torch.AcceleratorError("CUDA error: uncorrectable ECC error"), True),
        (ray.exceptions.RayActorError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), False),
        (ValueError("an image"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (RuntimeError("no connection to a peer: a sentence of ours about gloo, nccl and sockets"), False),
        (RuntimeError("CUDA error: a sentence of our own"), False),
        (FloatingPointError("nan"), False),
    ],
)  # fmt: skip
def test_the_type_of_an_error_decides_whether_it_may_pass(error, transient):
    assert is_transient(error) == transient


def test_a_group_that_starts_names_the_faults_before_it(tmp_path):
    log = FaultLog(Storage.at(tmp_path))
    assert log.add_start(0, 2, "starting a new run", 0.0) == "starting a new run"
    log.add_fault("worker 1 was killed")
    log.add_fault("worker 1 was killed")
    line = FaultLog(Storage.at(tmp_path)).add_start(160, 2, "continuing at 0.16 kimg from ckpt-000000000160", 0.2)
    assert line.startswith("fault: worker 1 was killed; the run was at 0.2 kimg; continuing at 0.16 kimg from ckpt-")
    assert line.endswith("0 s later")
    assert log.add_start(160, 1, "continuing", 0.2) == "the group goes from 2 to 1 workers; continuing"
    assert log.add_start(160, 1, "continuing", 0.2) == "continuing"


def test_faults_count_in_the_run_folder_until_there_is_a_new_checkpoint(tmp_path):
    """Each fault is counted by a process of its own, as after the death of any of them."""
    for _ in range(MOST_WITHOUT_PROGRESS - 1):
        FaultLog(Storage.at(tmp_path)).add_fault("worker 0 failed")
        FaultLog(Storage.at(tmp_path)).add_start(160, 2, "continuing", 0.2)
    log = FaultLog(Storage.at(tmp_path))
    log.add_start(320, 2, "continuing", 0.4)
    log.add_fault("worker 0 failed")
    assert log.end() is None
    for _ in range(MOST_WITHOUT_PROGRESS - 1):
        log.add_fault("worker 0 failed")
    state, reason = log.end()
    assert state == "failed" and f"{MOST_WITHOUT_PROGRESS} faults in a row" in reason and "same command" in reason
    log.add_command("the same command")
    assert log.end() is None and log.rows() == []


@pytest.mark.parametrize(
    ("kind", "bound"), [("lost", MOST_PER_HOUR), ("device", MOST_OF_DEVICES_PER_HOUR)], ids=["any", "device"]
)
def test_faults_after_each_new_checkpoint_are_bounded_per_hour(kind, bound):
    def rows(num, sec_between):
        found = []
        for number in range(num):
            found.append({"start": 100 * number, "workers": 1, "time": number * sec_between})
            found.append({"fault": "an assert", "kind": kind, "time": number * sec_between})
        return found, num * sec_between

    assert too_many(*rows(bound - 1, 1)) is None
    assert f"{bound} " in str(too_many(*rows(bound, 1))) and "an assert" in str(too_many(*rows(bound, 1)))
    assert too_many(*rows(bound, 3600)) is None


def test_a_storage_that_fails_delays_the_rows_of_faults(tmp_path):
    log = FaultLog(Storage.at(tmp_path / "run"))
    (tmp_path / "run").touch()  # a file where the folder should be
    log.add_fault("worker 0 was killed")
    assert [row["fault"] for row in log.rows()] == ["worker 0 was killed"]
    (tmp_path / "run").unlink()
    log.add_fault("worker 1 was killed")
    rows = [json.loads(line) for line in (tmp_path / "run" / FAULTS).read_text().splitlines()]
    assert [row["fault"] for row in rows] == ["worker 0 was killed", "worker 1 was killed"]


def test_errors_that_ray_repeats_are_one_fault(tmp_path):
    callback = FaultCallback(FaultLog(Storage.at(tmp_path)))
    for _ in range(3):
        callback.after_exception(None, {0: torch.AcceleratorError("CUDA error: assert")})
    (row,) = callback.log.rows()
    assert row["kind"] == "device" and "worker 0" in row["fault"]


@pytest.mark.cluster
def test_chaos(tmp_path):
    """Every kind of fault once, on several nodes, by the benchmark itself."""
    result = tmp_path / "chaos.json"
    command = [sys.executable, str(ROOT / "jobs" / "benchmark.py"), "chaos", "--faults", "14", "--json", str(result)]
    done = subprocess.run(isolated(command), capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(result.read_text())
    assert all(bar["holds"] for bar in found["bars"]), done.stdout
    assert len(found["figures"]["faults"]) == 14
