"""Limits that Linux sets for the processes of a container, a batch job or a service."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")
VMSTAT = Path("/proc/vmstat")
FILES_OF_MEMORY = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Limit, usage, and what `memory.stat` calls cached files, in both versions of control groups."""


def memory_limit() -> int | None:
    """Bytes that this process and those of its control groups may use; None without a limit."""
    limits = [_number(group / name) for group in groups("memory") for name in ("memory.max", "memory.limit_in_bytes")]
    return min((limit for limit in limits if limit is not None), default=None)


def memory_left() -> int | None:
    """Bytes that the processes of this process's control groups may use beyond what they use; None without a limit.

    Cached files count as used by a group and are given back, so they are left out as far as the group tells.
    """
    found = [left for group in groups("memory") for left in [_left(group)] if left is not None]
    return max(min(found), 0) if found else None


def _left(group: Path) -> int | None:
    """The same of one group: its limit minus its usage, without cached files that were not used lately."""
    for limit, usage, cached in FILES_OF_MEMORY:
        most, used = _number(group / limit), _number(group / usage)
        if most is not None and used is not None:
            return most - used + (_count(group / "memory.stat", cached) or 0)
    return None


def cpu_limit() -> float | None:
    """CPU cores whose time this process and those of its control groups may use; None without a limit."""
    return min((limit for limit in map(_cores, groups("cpu")) if limit is not None), default=None)


def oom_kills() -> int | None:
    """How many processes of this process's control groups the kernel has killed for memory; None where it is unknown.

    Without control groups for memory, how many of this machine.
    """
    files = [group / name for group in groups("memory") for name in ("memory.events", "memory.oom_control")]
    counts = [count for file in files if (count := _count(file, "oom_kill")) is not None]
    return max(counts) if counts else _count(VMSTAT, "oom_kill")


def groups(controller: str) -> list[Path]:
    """Folders of the control groups of this process, the innermost first, in both versions of control groups.

    Every group limits those inside it. A container may not see the outer ones; its own is the root then.
    """
    folders: list[Path] = []
    with suppress(OSError):
        for line in OWN.read_text().splitlines():
            number, controllers, path = line.split(":", 2)
            if number != "0" and controller not in controllers.split(","):
                continue
            top = ROOT if number == "0" else ROOT / controller
            inner = top / path.lstrip("/")
            folders += [folder for folder in (inner, *inner.parents) if folder.is_relative_to(top)]
    return folders


def _cores(group: Path) -> float | None:
    """The limit of one group: a share of time in each period, in one file or two."""
    with suppress(OSError, ValueError):
        quota, period = (group / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    quota, period = _number(group / "cpu.cfs_quota_us"), _number(group / "cpu.cfs_period_us")
    return quota / period if quota and period and quota > 0 else None


def _count(path: Path, name: str) -> int | None:
    """A number in a file of lines with a name and a number each."""
    with suppress(OSError, ValueError):
        return next((int(line.split()[1]) for line in path.read_text().splitlines() if line.split()[0] == name), None)
    return None


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # no such file, or "max"
        return None
