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


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_agents_end_with_their_ray(number):
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", COMMAND], stdout=subprocess.PIPE, env=env, text=True) as process:
        assert "runs" in process.stdout.readline()
        started = {pid: command_of(pid) for pid in descendants(process.pid)}
        try:
            assert sum("gent" in command for command in started.values()) >= 2, started
            process.send_signal(number)
            process.wait(60)
            end = time.monotonic() + MOST_SEC
            while any(map(is_alive, started)) and time.monotonic() < end:
                time.sleep(0.1)
            assert not [started[pid] for pid in started if is_alive(pid)]
        finally:
            kill(filter(is_alive, started))
