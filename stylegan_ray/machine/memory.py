"""Memory of this machine."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from stylegan_ray.machine import cgroups

SHARED_MEMORY = "/dev/shm"


def machine_bytes() -> int:
    """Memory of this machine, or of the container or batch job where that has less."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(whole, cgroups.memory_limit() or whole)


def available_bytes() -> int | None:
    """Memory that new processes can have without swapping, here or in this container; None where nobody tells."""
    known = [value for value in (_available_of_machine(), cgroups.memory_left()) if value is not None]
    return min(known, default=None)


def _available_of_machine() -> int | None:
    with suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "MemAvailable":
                return int(value.removesuffix("kB")) << 10
    return None


def shared_memory() -> int | None:
    """Bytes of /dev/shm, used or not; None where there is none."""
    try:
        stats = os.statvfs(SHARED_MEMORY)
    except OSError:
        return None
    return stats.f_frsize * stats.f_blocks


def gib(num_bytes: float) -> str:
    """Bytes as text."""
    return f"{num_bytes / 2**30:.1f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.0f} MiB"
