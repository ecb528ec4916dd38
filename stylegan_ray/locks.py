"""Locks of files and folders (flock): the system itself says whether a process that holds one lives."""

from __future__ import annotations

import fcntl
import os


def lock(file: int) -> bool:
    """Locks an open file or folder until it is closed or this process ends; false where that fails."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def is_locked(path: str) -> bool | None:
    """Whether a living process holds the lock of a file or folder; None where it is unknown."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(file)
    return False
