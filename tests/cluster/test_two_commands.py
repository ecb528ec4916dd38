"""Commands as users start them: two in one folder, early signals, ports, other code in the current folder."""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from support.jobs import ROOT, Job, isolated, newest_tick, small_model

pytest.importorskip("ray")

from benchmarks.cluster.local_cluster import command_of, descendants
from stylegan_ray.run_folder import newest_nimg
from stylegan_ray.storage import Storage

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(isolated(["x"]) == ["x"], reason="needs the right to make a process namespace"),
]
LONG = ["--train.total_kimg", "1000"]


def sockets_of(pids):
    inodes = set()
    for pid in pids:
        for path in Path(f"/proc/{pid}/fd").glob("*"):
            with suppress(OSError):
                link = os.readlink(path)
                if link.startswith("socket:["):
                    inodes.add(link[8:-1])
    return inodes


def listening(pids):
    """Addresses in hexadecimal that sockets of these processes listen on."""
    inodes, found = sockets_of(pids), []
    for table in ("tcp", "tcp6"):
        rows = [line.split() for line in Path("/proc/net", table).read_text().splitlines()[1:]]
        found += [row[1] for row in rows if row[3] == "0A" and row[9] in inodes]
    return found


def is_loopback(address):
    host = address.partition(":")[0]
    return host.endswith("0100007F") or host == "0" * 24 + "01000000"


def test_a_second_command_refuses_and_the_first_listens_on_loopback_only(pictures, tmp_path):
    options = ["config-f", str(pictures), *small_model(), *LONG, "--run.name", "run", "--cluster.num_workers", "2"]
    first = Job("train", *options, storage=tmp_path, log=tmp_path / "first.log")
    try:
        first.wait_for(lambda: newest_tick(tmp_path / "run") >= 0, 400)
        processes = descendants(first.process.pid)
        ports = listening(processes)
        assert len(ports) > 3 and [port for port in ports if not is_loopback(port)] == []
        workers = [pid for pid in processes if command_of(pid).startswith("ray::RayTrainWorker")]
        assert len(workers) == 2
        # Ray's allocator, else they grow.
        assert all("libjemalloc" in Path(f"/proc/{pid}/maps").read_text() for pid in workers)
        second = Job("train", *options, storage=tmp_path, log=tmp_path / "second.log")
        assert second.wait(200) == 2
        assert "in use by train, process" in second.text() and "--run.name" in second.text()
    finally:
        first.kill()
    assert [name for name in os.listdir(tmp_path / "run") if name.startswith(".lease-")]
    reached = newest_nimg(Storage.at(tmp_path / "run")) or 0
    again = Job(
        "train", *options, "--train.total_kimg", str(reached / 1000 + 0.1), storage=tmp_path, log=tmp_path / "again.log"
    )
    assert again.wait(400) == 0, again.text()
    assert not [name for name in os.listdir(tmp_path / "run") if name.startswith(".lease-")]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_before_the_workers_are_up_ends_the_command(pictures, tmp_path, number):
    env = {**os.environ, "STYLEGAN_RAY_STORAGE": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    words = [sys.executable, str(ROOT / "jobs" / "train.py"), "config-f", str(pictures), *small_model(), *LONG]
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen([*words, "--run.name", "run"], stdout=log, stderr=log, env=env)
    deadline = time.monotonic() + 300
    while "Starting" not in (tmp_path / "log").read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    started = [process.pid, *descendants(process.pid)]
    process.send_signal(number)
    assert process.wait(60) == 130, (tmp_path / "log").read_text()
    said = (tmp_path / "log").read_text()
    assert "Continue" in said and "train.py" in said and "the state is saved" not in said
    time.sleep(15)
    assert not [pid for pid in started if Path(f"/proc/{pid}").exists()]


def test_an_error_of_an_import_in_the_workers_ends_the_run_at_once_with_its_text(pictures, tmp_path):
    """The driver imports what the workers cannot, as where only its machine has a package."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        "if 'default_worker.py' in ' '.join(sys.orig_argv):\n"
        "    sys.modules['stylegan_ray.cluster.worker'] = None\n"
    )
    env = {**os.environ, "STYLEGAN_RAY_STORAGE": str(tmp_path), "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    words = [sys.executable, str(ROOT / "jobs" / "train.py"), "config-f", str(pictures), *small_model()]
    done = subprocess.run(isolated([*words, "--run.name", "run"]), env=env, capture_output=True, text=True, timeout=500)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "error: the workers cannot import what they need" in done.stderr
    assert "stylegan_ray.cluster.worker" in done.stderr and "Traceback" not in done.stderr
    assert len((tmp_path / "run" / "faults.jsonl").read_text().splitlines()) < 5


def test_a_command_in_the_background_of_a_script_ends_its_tasks_quietly(pictures, tmp_path):
    """A shell without job control ignores SIGINT in what it puts in the background, and children inherit that."""
    env = {**os.environ, "STYLEGAN_RAY_STORAGE": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    words = [sys.executable, str(ROOT / "jobs" / "train.py"), "config-f", str(pictures), *small_model()]
    command = isolated(["sh", "-c", '"$@" & wait $!', "sh", *words, "--run.name", "run", "--train.total_kimg", "0.128"])
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0 and "Handlers" not in done.stdout + done.stderr, done.stdout + done.stderr


def test_workers_run_the_code_of_the_driver(pictures, tmp_path):
    """Another checkout, and modules with the names of libraries, where the command is given."""
    folder = tmp_path / "here"
    (folder / "stylegan_ray").mkdir(parents=True)
    for name in ("stylegan_ray/__init__.py", "torch.py", "random.py"):
        (folder / name).write_text(f"raise RuntimeError({name!r})")
    env = {**os.environ, "STYLEGAN_RAY_STORAGE": str(tmp_path), "PYTHONPATH": str(ROOT)}
    words = [sys.executable, str(ROOT / "jobs" / "train.py"), "config-f", str(pictures), *small_model()]
    command = isolated([*words, "--run.name", "run", "--train.total_kimg", "0.01"])
    done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    shutil.rmtree(folder)
