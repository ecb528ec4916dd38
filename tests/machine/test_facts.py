"""What is found out about this machine, and that nothing is left behind."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stylegan_ray.machine import cgroups, disks, facts, memory, network
from stylegan_ray.machine.command import DoctorOptions, examine_machine
from stylegan_ray.machine.facts import token
from stylegan_ray.machine.software import OWN, extras, unmet, version_of

ROOT = Path(__file__).parents[2]


def test_the_command_says_all_that_is_asked_without_ray(tmp_path):
    """Ray is blocked, so nothing can start it."""
    code = "import sys; sys.modules['ray'] = None; sys.argv = sys.argv[1:]; from stylegan_ray.cli import main; main()"
    storage, report = tmp_path / "new" / "runs", tmp_path / "report.json"
    words = ["stylegan-ray", "doctor", "--run.storage", str(storage), "--json", str(report)]
    env = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"} | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code, *words], env=env, capture_output=True, text=True)
    found = json.loads(report.read_text())["machine"]
    levels = {finding["subject"]: finding["level"] for finding in found["findings"]}
    assert done.returncode == ("problem" in levels.values()), done.stdout + done.stderr
    for subject in ("software", "processor", "instructions", "GPUs", "memory", "shared memory", "ports", "storage"):
        assert subject in levels and f" {subject} " in done.stdout
    assert found["facts"]["processor"]["usable"] == len(os.sched_getaffinity(0))
    assert found["facts"]["storage"]["write_mb_s"] > 0 and found["facts"]["storage"]["clock_sec"] == 0
    assert not storage.parent.exists(), "folders that were not there are gone again"
    assert "prevents training on this machine" in done.stdout.splitlines()[-1]


def test_a_storage_that_cannot_be_written_is_a_problem_and_status_1(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert examine_machine(DoctorOptions(storage=str(tmp_path / "file" / "runs"))) == 1
    said = capsys.readouterr().out
    assert "problem  storage" in said and "--run.storage" in said


def test_a_file_that_cannot_be_written_is_refused_before_anything(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"--json .*folder"):
        examine_machine(DoctorOptions(json=str(tmp_path / "no" / "report.json")))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match=r"--json .*pipe cannot be written"):
        examine_machine(DoctorOptions(json=str(tmp_path / "pipe")))
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(ValueError, match=r"--json='report.json' is relative"):
        examine_machine(DoctorOptions(json="report.json"))


def test_a_storage_that_hangs_is_told_in_time(monkeypatch):
    monkeypatch.setattr(disks, "_tried", lambda address: (time.sleep(1), disks.Disk(address))[1])
    begin = time.monotonic()
    found = disks.try_storage("s3://key:secret@bucket/runs", 0.2)()
    assert time.monotonic() - begin < 0.9 and "does not answer" in found.problem
    assert found.address == "s3://bucket/runs" and found.kind == "s3"


def test_a_folder_that_loses_bytes_is_found(monkeypatch, tmp_path):
    read = os.read
    monkeypatch.setattr(disks.os, "read", lambda file, num: bytes(len(read(file, num))))
    found = disks.try_storage(str(tmp_path), 10)()
    assert "not what was written" in found.problem and not list(tmp_path.iterdir())


def slow(action, mb_s):
    """A function of os that takes as long as a slow disk for the bytes of its result, or of what was written."""

    def slowly(file, what):
        done = action(file, what)
        time.sleep((done if isinstance(done, int) else len(done)) / 1e6 / mb_s)
        return done

    return slowly


def test_a_slow_folder_is_measured_in_time(monkeypatch, tmp_path):
    """A tenth of the times and bytes: as 3 MB/s."""
    monkeypatch.setattr(disks, "MOST_SEC", disks.MOST_SEC / 10)
    monkeypatch.setattr(disks, "LEAST_PIECE", disks.LEAST_PIECE // 10)
    monkeypatch.setattr(disks.os, "write", slow(os.write, 3))
    monkeypatch.setattr(disks.os, "read", slow(os.read, 3))
    found = disks.try_storage(str(tmp_path), facts.STORAGE_SEC / 10)()
    assert not found.problem and found.write_mb_s < 4 and found.read_mb_s < 4
    assert not list(tmp_path.iterdir())


def test_a_folder_that_does_not_answer_keeps_no_file(monkeypatch, tmp_path):
    monkeypatch.setattr(disks.os, "fsync", lambda file: time.sleep(3))
    found = disks.try_storage(str(tmp_path), 0.2)()
    assert "does not answer within 0.2 s" in found.problem
    deadline = time.monotonic() + 2
    while list(tmp_path.iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_command_that_ends_before_the_folder_answers_leaves_no_file(tmp_path):
    code = (
        "import os, sys, time; from stylegan_ray.machine import disks; os.fsync = lambda file: time.sleep(60);"
        "disks.try_storage(sys.argv[1], 60);\nwhile not os.listdir(sys.argv[1]): time.sleep(0.01)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=60)
    deadline = time.monotonic() + 10
    while list(tmp_path.iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_slow_object_storage_gets_a_small_object(monkeypatch, tmp_path):
    write, sizes = disks.Storage.write, []

    def slowly(storage, name, content):
        sizes.append(len(content))
        time.sleep(0.2 if len(sizes) == 2 else 0)
        write(storage, name, content)

    monkeypatch.setattr(disks, "MOST_SEC", 0.3)
    monkeypatch.setattr(disks.Storage, "write", slowly)
    found = disks._object_storage(str(tmp_path))
    assert sizes == [1 << 20, 4 << 20] and found.write_mb_s < 21 and not list(tmp_path.iterdir())


def test_moments_outside_an_interval():
    assert disks.outside(5, 4, 6) == 0 and disks.outside(8, 4, 6) == 2 and disks.outside(1, 4, 6) == -3


def test_a_taken_port_is_found_with_its_program(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setattr(network, "PORTS", {port: "--port"})
        said = network.taken_ports()[port]
    assert f"(process {os.getpid()})" in said
    assert port not in network.taken_ports()


@pytest.mark.parametrize("version", [1, 2])
def test_limits_of_control_groups_count_at_every_level(monkeypatch, tmp_path, version):
    """A batch job has the limit, not the step in it, nor the machine around it."""
    own, root = tmp_path / "cgroup", tmp_path / "fs"
    monkeypatch.setattr(cgroups, "OWN", own)
    monkeypatch.setattr(cgroups, "ROOT", root)
    job = "slurm/job_7"
    if version == 2:
        own.write_text(f"0::/{job}/step_0\n")
        files = {f"{job}/memory.max": "1000", f"{job}/step_0/memory.max": "max", f"{job}/cpu.max": "150000 100000"}
    else:
        own.write_text(f"4:memory:/{job}/step_0\n2:cpu,cpuacct:/{job}\n0::/\n")
        files = {
            f"memory/{job}/memory.limit_in_bytes": "1000", "memory/memory.limit_in_bytes": str((1 << 63) - 4096),
            f"cpu/{job}/cpu.cfs_quota_us": "150000", f"cpu/{job}/cpu.cfs_period_us": "100000",
            "cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000",
        }  # fmt: skip
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content + "\n")
    assert cgroups.memory_limit() == 1000 and cgroups.cpu_limit() == 1.5
    own.unlink()
    assert cgroups.memory_limit() is None and cgroups.cpu_limit() is None


@pytest.mark.parametrize("version", [1, 2])
def test_what_a_container_has_left_is_what_is_available(monkeypatch, tmp_path, version):
    """The limit of the job counts with what all of it uses, cached files apart; the step in it has no limit."""
    own, root, job = tmp_path / "cgroup", tmp_path / "fs", "slurm/job_7"
    monkeypatch.setattr(cgroups, "OWN", own)
    monkeypatch.setattr(cgroups, "ROOT", root)
    if version == 2:
        own.write_text(f"0::/{job}/step_0\n")
        files = {
            f"{job}/memory.max": "1000", f"{job}/memory.current": "900", f"{job}/memory.stat": "x 1\ninactive_file 50",
            f"{job}/step_0/memory.max": "max", f"{job}/step_0/memory.current": "800",
        }  # fmt: skip
    else:
        own.write_text(f"4:memory:/{job}\n0::/\n")
        files = {
            f"memory/{job}/memory.limit_in_bytes": "1000", f"memory/{job}/memory.usage_in_bytes": "900",
            f"memory/{job}/memory.stat": "cache 1\ntotal_inactive_file 50",
        }  # fmt: skip
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content + "\n")
    assert cgroups.memory_left() == memory.available_bytes() == 150
    usage = root / (f"{job}/memory.current" if version == 2 else f"memory/{job}/memory.usage_in_bytes")
    usage.write_text("2000")
    assert memory.available_bytes() == 0
    own.unlink()
    assert cgroups.memory_left() is None and memory.available_bytes() > 2000


def test_what_is_installed():
    assert version_of("no-such-package") == "not installed"
    if version_of(OWN) != "not installed":
        assert unmet() == [] and "test" not in extras() and "tune" in extras()


def test_a_token_is_found_and_never_told(monkeypatch, tmp_path):
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert token().source is None
    path = tmp_path / ".ray" / "auth_token"
    path.parent.mkdir()
    path.write_text("SECRET")
    path.chmod(stat.S_IRUSR | stat.S_IROTH)
    tmp_path.chmod(stat.S_IRWXU)
    assert token().source == str(path) and token().is_private, "nobody else reaches it"
    with monkeypatch.context() as patch:
        patch.setattr(facts, "others_enter", lambda folder: True)
        assert not token().is_private and "SECRET" not in repr(token())
    assert facts.others_enter(Path("/")) and not facts.others_enter(tmp_path)
    path.chmod(stat.S_IRUSR)
    assert token().is_private
    monkeypatch.setenv("RAY_AUTH_TOKEN", "SECRET")
    assert token().source == "RAY_AUTH_TOKEN" and "SECRET" not in repr(token())
