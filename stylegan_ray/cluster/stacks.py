"""Stacks of processes that hang, and their end. Imports no torch: tasks on other nodes run it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import traceback
from contextlib import suppress

from stylegan_ray.lease import is_process
from stylegan_ray.storage import one_line

SEC_TO_DUMP = 20.0
"""How long reading the stacks of another process may take."""


def own_stacks() -> str:
    """The Python stacks of all threads of this process."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    parts = [
        f"Thread {names.get(number, number)}:\n{''.join(traceback.format_stack(frame))}"
        for number, frame in sys._current_frames().items()
    ]
    return "\n".join(parts)


def stacks_of(pid: int, started: int | None) -> str | None:
    """The Python stacks of another process on this machine, or why there are none; None where it has ended.

    py-spy comes with Ray. It reads a process that is stopped, too, and needs the right to do so: root, or on Linux
    kernel.yama.ptrace_scope 0.
    """
    if not is_process(pid, started):
        return None
    places = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)])
    command = [shutil.which("py-spy", path=places) or "py-spy", "dump", "--nonblocking", "--pid", str(pid)]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=SEC_TO_DUMP)
    except (OSError, subprocess.SubprocessError) as error:
        return f"no stacks: {one_line(error)}\n"
    return result.stdout if result.returncode == 0 else f"no stacks: {one_line(result.stderr)}\n"


def end_process(pid: int, started: int | None) -> None:
    """Kills a process of this machine, if it is the one that started then."""
    if is_process(pid, started):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
