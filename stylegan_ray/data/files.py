"""Bytes of data files on a local disk or in an object store, readable from any thread and after a fork."""

from __future__ import annotations

import errno
import os
import stat as stat_modes
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from operator import itemgetter
from typing import Any, BinaryIO, NamedTuple, Protocol, cast

from pyarrow import fs

from stylegan_ray.data import left_out as reasons
from stylegan_ray.data.decode import MAX_IMAGE_BYTES
from stylegan_ray.data.left_out import LeftOut, is_hidden, is_hidden_part
from stylegan_ray.storage import Storage, one_line
from stylegan_ray.untrusted import BadFileError, check_regular, open_regular, read_at_most

LIMIT_KEY = "data.max_image_mb"
PSEUDO_FOLDERS = ("/proc/", "/sys/", "/dev/")
"""Places whose files are no data, also with data.follow_links."""


class FileInfo(NamedTuple):
    name: str
    """Path inside the root, with '/'."""
    size: int
    mtime_ns: int
    ctime_ns: int = 0
    """Time of the latest change of content, name, owner or permissions; 0 in object storage."""


class Files(Protocol):
    """The files below one folder. Pickles to its address; handles are opened per process on first use."""

    root: str
    max_bytes: int
    """Size of the largest image; larger ones are not read (data.max_image_mb)."""

    def listing(self) -> list[FileInfo]:
        """All files at any depth, sorted by name; only regular ones below the root, none that is hidden."""
        ...

    def survey(self) -> tuple[list[FileInfo], LeftOut]:
        """The listing, and what is not in it."""
        ...

    def info(self, name: str) -> FileInfo:
        """Size and time of one file; raises FileNotFoundError."""
        ...

    def read(self, name: str) -> bytes:
        """A whole file of at most `max_bytes`; raises BadFileError for a larger one."""
        ...

    def head(self, name: str, size: int) -> bytes:
        """The first `size` bytes of a file that is not kept open; fewer of a shorter one."""
        ...

    def read_at(self, name: str, offset: int, size: int) -> bytes:
        """Up to `size` bytes of a file; fewer at its end."""
        ...

    def open(self, name: str) -> BinaryIO:
        """An open file that can seek."""
        ...


def files_at(address: str, follow_links: bool = False, max_bytes: int = MAX_IMAGE_BYTES) -> Files:
    """The files at a local folder or at an s3:// or gs:// address."""
    if "://" in address:
        return StoredFiles(address, follow_links, max_bytes)
    return LocalFiles(os.path.abspath(address), follow_links, max_bytes)


MOST_HANDLES = 256
"""Files that a process keeps open at once, of the 1,024 that it usually may."""


class PerProcess:
    """Handles by name, opened on first use in each process; none is inherited by fork or pickled.

    Of more than MOST_HANDLES the ones that were opened first are given up.
    """

    def __init__(self, opener: Callable[[Any], Any]) -> None:
        self.opener, self.pid, self.handles = opener, os.getpid(), {}

    def __call__(self, name: Hashable) -> Any:
        if self.pid != os.getpid():
            self.pid, self.handles = os.getpid(), {}
        handle = self.handles.get(name)
        if handle is not None:
            return handle
        if len(self.handles) >= MOST_HANDLES:  # whoever reads from it keeps it open
            self.handles.pop(list(self.handles)[0], None)  # noqa: RUF015 (other threads add to it)
        return self.handles.setdefault(name, self.opener(name))


class LocalFiles:
    """Files on a disk that this machine sees, read without a shared file position, so that threads do not interfere."""

    def __init__(self, root: str, follow_links: bool = False, max_bytes: int = MAX_IMAGE_BYTES) -> None:
        self.root, self.follow_links, self.max_bytes = root, follow_links, max_bytes
        self._descriptor = PerProcess(lambda name: Descriptor(self._path(name)))

    def __reduce__(self) -> tuple[Any, ...]:
        return LocalFiles, (self.root, self.follow_links, self.max_bytes)

    def listing(self) -> list[FileInfo]:
        return self.survey()[0]

    def survey(self) -> tuple[list[FileInfo], LeftOut]:
        left_out = LeftOut()
        return sorted(_walk(self.root, self.follow_links, left_out), key=itemgetter(0)), left_out

    def info(self, name: str) -> FileInfo:
        stat = os.stat(self._path(name))
        if not stat_modes.S_ISREG(stat.st_mode):
            raise BadFileError("is not a regular file (but a folder, device or pipe); give a file")
        return _local_info(name, stat)

    def read(self, name: str) -> bytes:
        with open_regular(self._path(name), name) as file:
            return read_at_most(file, self.max_bytes, name, LIMIT_KEY)

    def holds(self, name: str) -> bool:
        """Whether there is a regular file that the listing would name."""
        path = self._path(name)
        target, root = os.path.realpath(path), os.path.realpath(self.root)
        return os.path.isfile(path) and (self.follow_links or _is_below(target, root))

    def head(self, name: str, size: int) -> bytes:
        descriptor = Descriptor(self._path(name), name)
        return os.pread(descriptor.number, size, 0)

    def read_at(self, name: str, offset: int, size: int) -> bytes:
        # A reference, or another thread that opened it at the same time could close it.
        descriptor = self._descriptor(name)
        return os.pread(descriptor.number, size, offset)

    def open(self, name: str) -> BinaryIO:
        return open_regular(self._path(name), name)

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}"


class Descriptor:
    """An open file descriptor, closed when the object is deleted."""

    def __init__(self, path: str, name: str | None = None) -> None:
        """Raises BadFileError for what is no regular file, without waiting for a pipe."""
        self.number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        check_regular(self.number, path if name is None else name)

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


def _walk(root: str, follow_links: bool, left_out: LeftOut) -> Iterator[FileInfo]:
    """Regular files below a folder. Links to files below it count as files; those to folders below it add nothing."""
    real_root = os.path.realpath(root)
    folders, seen = [""], set()
    while folders:
        folder = folders.pop()
        try:
            if not _is_first_visit(f"{root}/{folder}", seen):
                continue
            entries = os.scandir(f"{root}/{folder}")
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            left_out.add(reasons.TOO_DEEP, folder)
            continue
        with entries:
            for entry in entries:
                name = folder + entry.name
                if is_hidden_part(entry.name):
                    if entry.is_dir(follow_symlinks=False) or name.lower().endswith(reasons.IMAGE_ENDINGS):
                        left_out.add(reasons.HIDDEN, name)
                    continue
                stat = _status(entry, name, real_root, follow_links, left_out)
                if stat is None:
                    continue
                if stat_modes.S_ISDIR(stat.st_mode):
                    folders.append(f"{name}/")
                elif stat_modes.S_ISREG(stat.st_mode):
                    yield _local_info(name, stat)
                else:
                    left_out.add(reasons.SPECIAL, name)


def _is_first_visit(path: str, seen: set[tuple[int, int]]) -> bool:
    """Whether a folder was not seen before; followed links can lead to it twice."""
    stat = os.stat(path)
    known = (stat.st_dev, stat.st_ino) in seen
    seen.add((stat.st_dev, stat.st_ino))
    return not known


def _status(
    entry: os.DirEntry[str], name: str, real_root: str, follow_links: bool, left_out: LeftOut
) -> os.stat_result | None:
    """What an entry of a folder is; None for a link that is not followed, or a file that has vanished."""
    try:
        if not entry.is_symlink():
            return entry.stat(follow_symlinks=False)
        target, stat = os.path.realpath(entry.path), os.stat(entry.path)
    except OSError:
        left_out.add(reasons.DEAD_LINKS, name)
        return None
    is_below = _is_below(target, real_root)
    if is_below and stat_modes.S_ISDIR(stat.st_mode):
        return None
    holds_root = f"{real_root}/".startswith(f"{target.rstrip('/')}/")
    if not is_below and (not follow_links or holds_root or f"{target}/".startswith(PSEUDO_FOLDERS)):
        left_out.add(reasons.LINKS, name)
        return None
    return stat


def _is_below(path: str, root: str) -> bool:
    """Whether a path without links is a folder without links or below it."""
    return f"{path}/".startswith(f"{root.rstrip('/')}/")


def _local_info(name: str, stat: os.stat_result) -> FileInfo:
    return FileInfo(name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


class StoredFiles:
    """Files in an object store, through pyarrow."""

    def __init__(self, address: str, follow_links: bool = False, max_bytes: int = MAX_IMAGE_BYTES) -> None:
        self.root, self.follow_links, self.max_bytes = address, follow_links, max_bytes
        self._storage = PerProcess(lambda _: Storage.at(address))
        self._opened = PerProcess(self._open_input)

    def __reduce__(self) -> tuple[Any, ...]:
        return StoredFiles, (self.root, self.follow_links, self.max_bytes)

    def listing(self) -> list[FileInfo]:
        return self.survey()[0]

    def survey(self) -> tuple[list[FileInfo], LeftOut]:
        storage, left_out = self._storage(""), LeftOut()
        if storage.is_local:
            return LocalFiles(storage.root, self.follow_links).survey()
        found = storage.filesystem.get_file_info(fs.FileSelector(storage.root, recursive=True))
        skip = len(storage.path("x")) - 1
        infos = [_stored_info(info.path[skip:], info) for info in found if info.type == fs.FileType.File]
        for info in infos:
            if is_hidden(info.name) and info.name.lower().endswith(reasons.IMAGE_ENDINGS):
                left_out.add(reasons.HIDDEN, info.name)
        return sorted(info for info in infos if not is_hidden(info.name)), left_out

    def info(self, name: str) -> FileInfo:
        storage = self._storage("")
        if storage.is_local:
            return LocalFiles(storage.root).info(name)
        info = storage.filesystem.get_file_info(storage.path(name))
        if info.type != fs.FileType.File:
            raise FileNotFoundError(f"{self.root}/{name}")
        return _stored_info(name, info)

    def read(self, name: str) -> bytes:
        with _faults_of_storage(), self._open_input(name) as file:
            return read_at_most(file, self.max_bytes, name, LIMIT_KEY)

    def head(self, name: str, size: int) -> bytes:
        with _faults_of_storage(), self._open_input(name) as file:
            return file.read(size)

    def read_at(self, name: str, offset: int, size: int) -> bytes:
        with _faults_of_storage():
            return self._opened(name).read_at(size, offset)

    def open(self, name: str) -> BinaryIO:
        return cast(BinaryIO, self._open_input(name))

    def _open_input(self, name: str) -> Any:
        storage = self._storage("")
        return storage.filesystem.open_input_file(storage.path(name))


@contextmanager
def _faults_of_storage() -> Iterator[None]:
    """Inside, an error of an object store has an errno, by which it is told from one of a decoder."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise OSError(errno.EIO, one_line(error)) from error
        raise


def _stored_info(name: str, info: Any) -> FileInfo:
    return FileInfo(name, info.size, info.mtime_ns or 0)
