"""Calls on hostile input in a process of its own: what takes memory, hangs or dies there fails one test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple, TypeVar

MEMORY = 1 << 30
"""Bytes that one call may take."""
SEC = 60
"""Seconds of CPU that one call may take; they end the process."""
PROGRAM = """
import json, resource, signal, sys

def status(key):
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith(key))

module, name, memory, sec = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
call = getattr(__import__(module, fromlist=[name]), name)
resource.setrlimit(resource.RLIMIT_AS, (status("VmSize") + memory,) * 2)
for line in sys.stdin:
    before = status("VmRSS")
    open("/proc/self/clear_refs", "w").write("5")
    signal.setitimer(signal.ITIMER_VIRTUAL, sec)
    try:
        call(json.loads(line))
        kind, message = "", ""
    except Exception as error:
        kind, message = ",".join(base.__name__ for base in type(error).__mro__), str(error)
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    print(json.dumps([kind, message, status("VmHWM") - before]), flush=True)
"""


class Outcome(NamedTuple):
    """How a call ended."""

    kinds: tuple[str, ...]
    """The class of its error and the classes above; empty where it raised none."""
    message: str
    taken: int
    """Bytes of memory above those at its start, at most."""


Case = TypeVar("Case", bound=Hashable)


def outcomes(function: str, arguments: Mapping[Case, str]) -> dict[Case, Outcome]:
    """What the function (module.name) does with each argument, by the name of the case.

    A call that ends the process, by a signal or a timeout, and those after it, fail the test with its name.
    """
    module, _, name = function.rpartition(".")
    command = [sys.executable, "-c", PROGRAM, module, name, str(MEMORY), str(SEC)]
    lines = "".join(f"{json.dumps(argument)}\n" for argument in arguments.values())
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, input=lines, capture_output=True, text=True, env=environment, timeout=900)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    names = list(arguments)
    assert len(found) == len(names), f"{names[len(found)]} ends the process ({done.returncode}): {done.stderr[-500:]}"
    made = (Outcome(tuple(filter(None, kinds.split(","))), message, taken) for kinds, message, taken in found)
    return dict(zip(names, made, strict=True))


def require_refused(
    found: Mapping[Hashable, Outcome], kind: str, most_bytes: int = 200 << 20, named: Sequence[str] = ()
) -> None:
    """Asserts that each call raised an error of this kind with a printable message, and took little memory for it."""
    for case, outcome in found.items():
        assert kind in outcome.kinds, (case, outcome)
        assert outcome.message.isprintable() and len(outcome.message) < 1500, (case, outcome)
        assert "more memory than there is" not in outcome.message, (case, outcome)
        assert outcome.taken < most_bytes, (case, outcome)
        assert all(word in outcome.message for word in named), (case, outcome)
