"""A command that ends without a word of its own leaves one behind; one that ends as it should does not."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest
from support.jobs import ROOT

COMMAND = """
import ctypes, os, signal, sys, time
from stylegan_ray import cli
def train(argv):
    print("runs", flush=True)
    {body}
    return 0
sys.exit(cli.run(train, []))
"""


def command(body):
    """A train command with this body."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return [sys.executable, "-c", COMMAND.format(body=body)], {"env": env, "text": True}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("os._exit(1)", 1),
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
        ("ctypes.string_at(0)", -signal.SIGSEGV),
        ("os.abort()", -signal.SIGABRT),
    ],
)
def test_a_death_is_named_with_the_way_on(body, status):
    words, options = command(body)
    began = time.monotonic()
    done = subprocess.run(words, capture_output=True, timeout=60, **options)
    assert time.monotonic() - began < 9  # the search for what Ray leaves takes ten seconds more
    assert done.returncode == status
    assert done.stderr.startswith("error: the command was killed") and "the same command continues" in done.stderr


def test_a_library_that_exits_is_named():
    words, options = command("sys.exit(1)")
    done = subprocess.run(words, capture_output=True, timeout=60, **options)
    assert done.returncode == 1 and done.stderr == "error: a library ended the command with status 1\n"


@pytest.mark.parametrize("body", ["pass", "sys.exit(3)", "sys.exit('error: why')"])
def test_an_end_with_words_of_its_own_gets_no_others(tmp_path, body):
    words, options = command(body)
    options["env"]["RAY_TMPDIR"] = str(tmp_path)  # stands in the message, which tells it from those of other commands
    done = subprocess.run(words, capture_output=True, timeout=60, **options)
    assert "killed" not in done.stderr
    assert not [text for text in command_lines() if "the command was killed" in text and str(tmp_path) in text]


def command_lines():
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError), open(f"/proc/{entry}/cmdline", "rb") as file:
            yield file.read().decode(errors="replace")


def test_a_signal_to_the_whole_group_is_answered_once():
    words, options = command("time.sleep(60)")
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, **options)
    assert process.stdout.readline() == "runs\n"
    os.killpg(process.pid, signal.SIGINT)
    began = time.monotonic()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and said.startswith("interrupted") and "killed" not in said
    assert time.monotonic() - began < 10
