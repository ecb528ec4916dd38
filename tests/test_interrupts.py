"""Signals of a command: all that ask for its end raise KeyboardInterrupt, also where SIGINT was ignored."""

import os
import pty
import signal
import subprocess
import sys
import time

import pytest
from support.jobs import ROOT

COMMAND = """
import sys, time
from stylegan_ray import cli
def train(argv):
    print("runs", flush=True)
    time.sleep(60)
    return 0
sys.exit(cli.run(train, []))
"""
ENV = {**os.environ, "PYTHONPATH": str(ROOT)}


def started(ignored=None, **options):
    """The command; one signal is ignored from the start, all others are as in a new terminal."""

    def prepare():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN if number == ignored else signal.SIG_DFL)

    return subprocess.Popen([sys.executable, "-c", COMMAND], env=ENV, text=True, preexec_fn=prepare, **options)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_each_ends_a_command_with_130_and_how_to_continue(number):
    in_background = signal.SIGINT  # a shell ignores it in what it puts in the background
    process = started(in_background, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline() == "runs\n"
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "the same command continues" in said


def test_nohup_is_respected():
    process = started(signal.SIGHUP, stdout=subprocess.PIPE)
    assert process.stdout.readline() == "runs\n"
    process.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 130
    process.stdout.close()


def test_a_terminal_that_is_gone_does_not_disturb_the_end():
    master, terminal = pty.openpty()
    process = started(stdout=terminal, stderr=terminal, start_new_session=True)
    os.close(terminal)
    assert os.read(master, 100).startswith(b"runs")
    os.close(master)
    process.send_signal(signal.SIGHUP)
    assert process.wait(60) == 130


def test_the_module_of_the_command_line_is_a_command():
    done = subprocess.run(
        [sys.executable, "-m", "stylegan_ray.cli", "nothing"], env=ENV, capture_output=True, text=True
    )
    assert done.returncode == 2 and "unknown command 'nothing'" in done.stderr
