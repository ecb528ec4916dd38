"""Peak memory of a piece of work, in a process of its own where there is no GPU to ask."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

Value = TypeVar("Value")


def in_own_process(function: Callable[..., Value], *args: Any) -> Value:
    """The function's value, computed in a new process that ends with it."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


STATUS = Path("/proc/self/status")
"""What Linux tells of this process."""


def resident() -> int:
    """Bytes that this process has in memory, on Linux."""
    return _of_status("VmRSS")


def peak_rss() -> int:
    """Bytes that this process has had in memory at most."""
    if STATUS.exists():  # what getrusage says there includes the parent's memory when it started this process
        return _of_status("VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _of_status(field: str) -> int:
    return 1024 * int(STATUS.read_text().split(f"{field}:")[1].split()[0])
