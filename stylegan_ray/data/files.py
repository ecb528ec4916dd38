"""Bytes of data files on a local disk or in an object store, readable from any thread and after a fork."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterator
from typing import Any, BinaryIO, NamedTuple, Protocol, cast

from pyarrow import fs

from stylegan_ray.storage import Storage


class FileInfo(NamedTuple):
    name: str
    """Path inside the root, with '/'."""
    size: int
    mtime_ns: int


class Files(Protocol):
    """The files below one folder. Pickles to its address; handles are opened per process on first use."""

    root: str

    def listing(self) -> list[FileInfo]:
        """All files at any depth, sorted by name."""
        ...

    def info(self, name: str) -> FileInfo:
        """Size and time of one file; raises FileNotFoundError."""
        ...

    def read(self, name: str) -> bytes:
        """A whole file."""
        ...

    def read_at(self, name: str, offset: int, size: int) -> bytes:
        """Up to `size` bytes of a file; fewer at its end."""
        ...

    def open(self, name: str) -> BinaryIO:
        """An open file that can seek."""
        ...


def files_at(address: str) -> Files:
    """The files at a local folder or at an s3:// or gs:// address."""
    return StoredFiles(address) if "://" in address else LocalFiles(os.path.abspath(address))


class PerProcess:
    """Handles by name, opened on first use in each process; none is inherited by fork or pickled."""

    def __init__(self, opener: Callable[[Any], Any]) -> None:
        self.opener, self.pid, self.handles = opener, os.getpid(), {}

    def __call__(self, name: Hashable) -> Any:
        if self.pid != os.getpid():
            self.pid, self.handles = os.getpid(), {}
        handle = self.handles.get(name)
        return self.handles.setdefault(name, self.opener(name)) if handle is None else handle


class LocalFiles:
    """Files on a disk that this machine sees, read without a shared file position, so that threads do not interfere."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._descriptor = PerProcess(lambda name: Descriptor(self._path(name)))

    def __reduce__(self) -> tuple[Any, ...]:
        return LocalFiles, (self.root,)

    def listing(self) -> list[FileInfo]:
        return sorted(_walk(self.root, "", set()))

    def info(self, name: str) -> FileInfo:
        stat = os.stat(self._path(name))
        return FileInfo(name, stat.st_size, stat.st_mtime_ns)

    def read(self, name: str) -> bytes:
        with open(self._path(name), "rb") as file:
            return file.read()

    def read_at(self, name: str, offset: int, size: int) -> bytes:
        descriptor = self._descriptor(
            name
        )  # a reference, or another thread that opened it at the same time could close it
        return os.pread(descriptor.number, size, offset)

    def open(self, name: str) -> BinaryIO:
        return open(self._path(name), "rb")

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}"


class Descriptor:
    """An open file descriptor, closed when the object is deleted."""

    def __init__(self, path: str, flags: int = os.O_RDONLY) -> None:
        self.number = os.open(path, flags | os.O_CLOEXEC, 0o666)

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


def _walk(root: str, inside: str, seen: set[tuple[int, int]]) -> Iterator[FileInfo]:
    """Files below root/inside; links are followed, and each folder is visited once."""
    stat = os.stat(f"{root}/{inside}")
    if (stat.st_dev, stat.st_ino) in seen:
        return
    seen.add((stat.st_dev, stat.st_ino))
    with os.scandir(f"{root}/{inside}") as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _walk(root, f"{inside}{entry.name}/", seen)
            elif entry.is_file():
                stat = entry.stat()
                yield FileInfo(inside + entry.name, stat.st_size, stat.st_mtime_ns)


class StoredFiles:
    """Files in an object store, through pyarrow."""

    def __init__(self, address: str) -> None:
        self.root = address
        self._storage = PerProcess(lambda _: Storage.at(address))
        self._opened = PerProcess(self._open_input)

    def __reduce__(self) -> tuple[Any, ...]:
        return StoredFiles, (self.root,)

    def listing(self) -> list[FileInfo]:
        storage = self._storage("")
        found = storage.filesystem.get_file_info(fs.FileSelector(storage.root, recursive=True))
        skip = len(storage.path("x")) - 1
        return sorted(_stored_info(info.path[skip:], info) for info in found if info.type == fs.FileType.File)

    def info(self, name: str) -> FileInfo:
        storage = self._storage("")
        info = storage.filesystem.get_file_info(storage.path(name))
        if info.type != fs.FileType.File:
            raise FileNotFoundError(f"{self.root}/{name}")
        return _stored_info(name, info)

    def read(self, name: str) -> bytes:
        return self._storage("").read(name)

    def read_at(self, name: str, offset: int, size: int) -> bytes:
        return self._opened(name).read_at(size, offset)

    def open(self, name: str) -> BinaryIO:
        return cast(BinaryIO, self._open_input(name))

    def _open_input(self, name: str) -> Any:
        storage = self._storage("")
        return storage.filesystem.open_input_file(storage.path(name))


def _stored_info(name: str, info: Any) -> FileInfo:
    return FileInfo(name, info.size, info.mtime_ns or 0)
