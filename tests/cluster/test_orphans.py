"""What Ray has started ends with the command that started Ray, however it ends."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("ray")

import ray
from support.jobs import ROOT

from benchmarks.cluster.local_cluster import command_of, descendants, is_alive, kill
from stylegan_ray import orphans

COMMAND = """
import sys, time
from stylegan_ray import cli
from stylegan_ray.cluster.resources import joined
from stylegan_ray.config import load_config

def train(argv):
    with joined(load_config("tiny", {"cluster.address": "local"}), print):
        print("runs", flush=True)
        time.sleep(100)

cli.keep_to_loopback("local")
sys.exit(cli.run(train, []))
"""
MOST_SEC = 15.0


@pytest.fixture
def start():
    """Starts the command; returns the process and, by number, the command lines of all that it has started."""
    everything: list[int] = []

    def start():
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen([sys.executable, "-c", COMMAND], stdout=subprocess.PIPE, env=env, text=True)
        assert "runs" in process.stdout.readline()
        started = {pid: command_of(pid) for pid in descendants(process.pid)}
        everything.extend([process.pid, *started])
        assert sum("ray::DashboardAgent" in command for command in started.values()) == 1, started
        return process, started

    yield start
    kill(filter(is_alive, everything))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_agents_end_with_their_ray_and_no_other(start, number):
    process, started = start()
    _, others = start()
    process.send_signal(number)
    process.wait(60)
    end = time.monotonic() + MOST_SEC
    while any(map(is_alive, started)) and time.monotonic() < end:
        time.sleep(0.1)
    assert not [started[pid] for pid in started if is_alive(pid)]
    orphans.end_orphans()
    time.sleep(1)
    assert not [others[pid] for pid in others if not is_alive(pid)]


@pytest.mark.parametrize("raylet_lives", [False, True])
def test_a_worker_that_starts_without_its_raylet_ends(tmp_path, raylet_lives):
    program = Path(ray.__file__).parent / "_private" / "workers" / "default_worker.py"
    with socket.socket(socket.AF_UNIX) as raylet:
        path = str(tmp_path / "raylet")
        if raylet_lives:
            raylet.bind(path)
            raylet.listen()
        words = {
            "cluster-id": "0" * 56, "node-id": "0" * 56, "worker-id": "0" * 56, "node-ip-address": "127.0.0.1",
            "node-manager-port": 1, "gcs-address": "127.0.0.1:1", "redis-address": None, "raylet-name": path,
            "object-store-name": tmp_path / "store", "metrics-agent-port": 0, "runtime-env-agent-port": 0,
            "worker-launch-time-ms": 0,
        }  # fmt: skip
        command = [sys.executable, str(program), *(f"--{word}={value}" for word, value in words.items())]
        worker = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while b"default_worker" not in Path(f"/proc/{worker.pid}/cmdline").read_bytes():
                time.sleep(0.01)
            orphans.end_orphans()
            time.sleep(0.5)
            assert worker.poll() == (None if raylet_lives else -signal.SIGKILL)
        finally:
            worker.kill()
            worker.wait()


@pytest.mark.parametrize("program", ["dashboard/agent.py", "_private/runtime_env/agent/main.py"])
def test_an_agent_that_loads_its_code_without_its_raylet_ends(tmp_path, program):
    """But not one below its raylet, here a shell of that name, and no other program that is given the same file."""
    raylet = tmp_path / "raylet"
    raylet.symlink_to("/bin/sh")
    file = Path(ray.__file__).parent / program
    call = f"{sys.executable} -u {file} --node-id=0 2> /dev/null; echo $?"
    reader = f"tail -f {file} > /dev/null & sleep 2; kill $!; wait $!; echo $?"
    commands = {call: True, f"exec {raylet} -c '{call}'": False, reader: False}
    shells = [subprocess.Popen(["/bin/sh", "-c", words], stdout=subprocess.PIPE, text=True) for words in commands]
    try:
        while sum(str(file) in command_of(pid) for shell in shells for pid in descendants(shell.pid)) < len(shells):
            time.sleep(0.01)
        time.sleep(0.1)
        orphans.end_orphans()
        for shell, is_orphan in zip(shells, commands.values(), strict=True):
            status = int(shell.communicate(timeout=60)[0])
            assert (status == 128 + signal.SIGKILL) == is_orphan
    finally:
        kill([pid for shell in shells for pid in (*descendants(shell.pid), shell.pid)])
