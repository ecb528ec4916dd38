"""What is done for a command that ends without a word: one that is killed, or that a library ends, can do nothing."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from stylegan_ray.orphans import END_LATE_ORPHANS

WATCHER = """
trap '' INT TERM HUP
read -r ended && exit
printf '%s\\n' "$1" >&2
exec /bin/sh -c "$2" > /dev/null 2>&1
"""
"""For a shell, which waits until the pipe on its standard input closes, says its first argument, and runs its second.

Who reads what the command prints does not wait for that.
"""


@contextmanager
def left_behind(text: str) -> Iterator[None]:
    """Prints the text to standard error if this process ends inside, in whatever way, and ends what Ray leaves.

    SIGKILL ends a process without a word, as the kernel does where memory is short; so do libraries that call _exit():
    Ray's, in a driver that lost its raylet. Where there is no shell, nothing is printed.
    """
    watcher = _started(text)
    try:
        yield
    finally:
        if watcher is not None:
            with suppress(OSError):
                watcher.communicate(b"ended\n")


def _started(text: str) -> subprocess.Popen[bytes] | None:
    """The shell; in a session of its own, so that Ctrl-C does not reach it."""
    with suppress(OSError):
        words = ["/bin/sh", "-c", WATCHER, "sh", text, END_LATE_ORPHANS]
        return subprocess.Popen(words, stdin=subprocess.PIPE, start_new_session=True)
    return None
