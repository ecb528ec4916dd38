"""Ray's agents end with the command that started Ray, however it ends."""

import os
import signal
import subprocess
import sys
import time

import pytest

pytest.importorskip("ray")

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
