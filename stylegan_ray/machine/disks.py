"""Folders that a training writes: whether they can be written, how fast, and how much fits."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Thread

from stylegan_ray.credentials import without_credentials
from stylegan_ray.storage import Storage, one_line

PIECE = 4 << 20
MOST_BYTES = 64 << 20
"""What is written and read to measure a disk, at most."""
OBJECT_BYTES = 16 << 20
"""The same for object storage, as one object."""
MOST_SEC = 1.5
"""How long writing may take before less is written."""
PREFIX = ".doctor-"
NO_ANSWER = "does not answer"


@dataclass(frozen=True)
class Disk:
    """A folder or an address of object storage."""

    address: str
    kind: str = ""
    """File system, or the scheme of an address."""
    write_mb_s: float | None = None
    read_mb_s: float | None = None
    free: int | None = None
    total: int | None = None
    clock_sec: float | None = None
    """By how much the clock that dates the files of the folder is ahead of this machine's."""
    problem: str = ""


def try_storage(address: str, timeout_sec: float) -> Callable[[], Disk]:
    """Begins to write and read at an address; the result says what was found, or that nothing answers in time."""
    shown, found = without_credentials(address), []
    deadline = time.monotonic() + timeout_sec
    thread = Thread(target=lambda: found.append(replace(_tried(address), address=shown)), daemon=True)
    thread.start()

    def result() -> Disk:
        thread.join(max(deadline - time.monotonic(), 0))
        problem = f"{NO_ANSWER} within {timeout_sec:g} s"
        return found[0] if found else Disk(shown, kind_of(address), problem=problem)

    return result


def _tried(address: str) -> Disk:
    try:
        return _object_storage(address) if "://" in address else folder(address)
    except (OSError, ValueError) as error:
        return Disk(address, kind_of(address), problem=without_credentials(one_line(error)))


def folder(path: str) -> Disk:
    """A folder, by a file that is written, synced, read and removed; so is the folder where it was not there."""
    missing = [place for place in (Path(path), *Path(path).parents) if not place.exists()]
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=PREFIX, dir=path)
        try:
            begin = time.time()
            with os.fdopen(handle, "w+b", buffering=0) as file:
                write, read = _speeds(file.fileno())
            ahead = outside(os.stat(name).st_mtime, begin, time.time())
        finally:
            os.unlink(name)
        stats = os.statvfs(path)
    finally:
        for place in missing:
            with suppress(OSError):  # somebody else uses it by now
                place.rmdir()
    free, total = stats.f_frsize * stats.f_bavail, stats.f_frsize * stats.f_blocks
    return Disk(path, kind_of(path), write, read, free, total, ahead)


def _speeds(file: int) -> tuple[float, float]:
    """MB/s of writing to the disk and of reading; raises OSError where what is read differs."""
    piece, begin = os.urandom(PIECE), time.perf_counter()
    size = 0
    while size < MOST_BYTES and time.perf_counter() - begin < MOST_SEC:
        size += os.write(file, piece)
    os.fsync(file)
    written = time.perf_counter()
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)  # else memory is read, not the disk
    os.lseek(file, 0, os.SEEK_SET)
    middle, num = time.perf_counter(), 0
    while part := os.read(file, PIECE - num % PIECE):
        if part != piece[num % PIECE :][: len(part)]:
            raise OSError("what was read is not what was written")
        num += len(part)
    if num != size:
        raise OSError(f"{num} bytes were read of {size} that were written")
    return round(size / 1e6 / (written - begin), 1), round(size / 1e6 / (time.perf_counter() - middle), 1)


def _object_storage(address: str) -> Disk:
    """Object storage, by an object that is written, read and removed."""
    storage, name = Storage.at(address), f"{PREFIX}{os.getpid()}-{time.time_ns():x}"
    content, begin = os.urandom(OBJECT_BYTES), time.perf_counter()
    since = time.time()
    storage.write(name, content)
    try:
        written = time.perf_counter()
        dated, now = storage.written_at(name), time.time()
        middle = time.perf_counter()
        if storage.read(name) != content:
            raise OSError("what was read is not what was written")
        end = time.perf_counter()
    finally:
        storage.delete(name)
    size, ahead = OBJECT_BYTES / 1e6, None if dated is None else outside(dated, since, now)
    speeds = round(size / (written - begin), 1), round(size / (end - middle), 1)
    return Disk(address, kind_of(address), *speeds, clock_sec=ahead)


def outside(moment: float, begin: float, end: float) -> float:
    """By how many seconds a moment lies after an interval, or before it as a negative number; 0 inside."""
    return round(max(moment - end, 0) + min(moment - begin, 0), 2)


def kind_of(address: str) -> str:
    """The scheme of an address, or the file system of a path, as ext4, nfs4 or overlay; empty where nobody tells."""
    if "://" in address:
        return address.partition("://")[0]
    with suppress(OSError):
        path = Path(os.path.realpath(address))
        mounts = [line.split()[1:3] for line in Path("/proc/self/mounts").read_text().splitlines()]
        over = [(point, kind) for point, kind in mounts if path.is_relative_to(point.replace(r"\040", " "))]
        return max(over, key=lambda mount: len(mount[0]), default=("", ""))[1]
    return ""


def temporary_folder() -> Disk:
    """Where Ray keeps its files, and objects for which memory has no room."""
    path = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    try:
        stats = os.statvfs(path)
        problem = "" if os.access(path, os.W_OK | os.X_OK) else "cannot be written by this user"
    except OSError as error:
        return Disk(path, problem=one_line(error))
    return Disk(path, kind_of(path), free=stats.f_frsize * stats.f_bavail, total=stats.f_frsize * stats.f_blocks,
                problem=problem)  # fmt: skip
