"""Limits that Linux sets for the processes of a container, a batch job or a service."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")
VMSTAT = Path("/proc/vmstat")


def memory_limit() -> int | None:
    """Bytes that this process and those of its control groups may use; None without a limit."""
    limits = [_number(group / name) for group in groups("memory") for name in ("memory.max", "memory.limit_in_bytes")]
    return min((limit for limit in limits if limit is not None), default=None)


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
