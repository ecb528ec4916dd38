"""Folders that a training writes: whether they can be written, how fast, and how much fits."""

from __future__ import annotations

import atexit
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Thread

from stylegan_ray.credentials import without_credentials
from stylegan_ray.storage import Storage, one_line

LEAST_PIECE, PIECE = 256 << 10, 4 << 20
"""What is written and synced at once: first little, then twice as much each time."""
MOST_BYTES = 64 << 20
"""What is written and read to measure a disk, at most."""
OBJECT_BYTES = (1 << 20, 4 << 20, 16 << 20)
"""The same for object storage: objects, of which a larger one follows where there is time."""
MOST_SEC = 1.5
"""How long writing and reading may take each before they end; the last piece may take as long again."""
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
        if not found:
            remove_files()
        problem = f"{NO_ANSWER} within {timeout_sec:g} s"
        return found[0] if found else Disk(shown, kind_of(address), problem=problem)

    return result


_written: set[str] = set()
"""Files on disks that are there while they are written and read."""


def remove_files() -> None:
    """Starts a process that removes the files, since a disk that does not answer would keep this one waiting."""
    if files := list(_written):
        none = subprocess.DEVNULL
        with suppress(OSError):
            subprocess.Popen(["rm", "-f", "--", *files], start_new_session=True, stdin=none, stdout=none, stderr=none)


atexit.register(remove_files)  # the thread that would remove them ends with the process


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
        handle, name = tempfile.mkstemp(prefix=PREFIX, dir=os.path.abspath(path))
        _written.add(name)
        try:
            begin = time.time()
            with os.fdopen(handle, "w+b", buffering=0) as file:
                write, read = _speeds(file.fileno())
            ahead = outside(os.stat(name).st_mtime, begin, time.time())
        finally:
            with suppress(FileNotFoundError):  # it took so long that another process has removed it
                os.unlink(name)
            _written.discard(name)
        stats = os.statvfs(path)
    finally:
        for place in missing:
            with suppress(OSError):  # somebody else uses it by now
                place.rmdir()
    free, total = stats.f_frsize * stats.f_bavail, stats.f_frsize * stats.f_blocks
    return Disk(path, kind_of(path), write, read, free, total, ahead)


def _speeds(file: int) -> tuple[float, float]:
    """MB/s of writing to the disk and of reading; raises OSError where what is read differs.

    A slow disk gets and gives less, so that it is measured in time.
    """
    piece, begin = os.urandom(PIECE), time.perf_counter()
    size, step = 0, LEAST_PIECE
    while size < MOST_BYTES and time.perf_counter() - begin < MOST_SEC:
        size += os.write(file, piece[size % PIECE :][:step])
        os.fsync(file)
        step = min(2 * step, PIECE)
    written = time.perf_counter()
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)  # else memory is read, not the disk
    os.lseek(file, 0, os.SEEK_SET)
    middle, num = time.perf_counter(), 0
    while num < size and time.perf_counter() - middle < MOST_SEC:
        part = os.read(file, min(LEAST_PIECE, PIECE - num % PIECE))
        if not part:
            raise OSError(f"{num} bytes were read of {size} that were written")
        if part != piece[num % PIECE :][: len(part)]:
            raise OSError("what was read is not what was written")
        num += len(part)
    return round(size / 1e6 / (written - begin), 1), round(num / 1e6 / (time.perf_counter() - middle), 1)


def _object_storage(address: str) -> Disk:
    """Object storage, by an object that is written, read and removed."""
    storage, name = Storage.at(address), f"{PREFIX}{os.getpid()}-{time.time_ns():x}"
    since = time.time()
    try:
        content, seconds = _write_object(storage, name)
        dated, now = storage.written_at(name), time.time()
        middle = time.perf_counter()
        if storage.read(name) != content:
            raise OSError("what was read is not what was written")
        end = time.perf_counter()
    finally:
        storage.delete(name)
    size, ahead = len(content) / 1e6, None if dated is None else outside(dated, since, now)
    speeds = round(size / seconds, 1), round(size / (end - middle), 1)
    return Disk(address, kind_of(address), *speeds, clock_sec=ahead)


def _write_object(storage: Storage, name: str) -> tuple[bytes, float]:
    """The largest content for which there is time, and the seconds that it took to write it."""
    for size in OBJECT_BYTES:
        content, begin = os.urandom(size), time.perf_counter()
        storage.write(name, content)
        seconds = time.perf_counter() - begin
        if 4 * seconds > 2 * MOST_SEC:
            break
    return content, seconds


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
