"""Files on a local disk, NFS or in an object store: one small class over pyarrow's file systems."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import time
import uuid
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pyarrow import fs

from stylegan_ray.untrusted import NETWORK_BYTES, BadFileError, check_size, open_regular, printable, read_at_most

Result = TypeVar("Result")
PAUSES_SEC = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 30.0, 30.0, 60.0, 60.0, 60.0)
"""Pauses between attempts to reach a storage that does not respond, five minutes in all."""
PART = ".part"
"""Suffix of files that are being written."""
OLD_SEC = 3600.0
"""Age from which on an unfinished file of a cache is one of a process that was killed; they take seconds to write."""


def absolute(address: str) -> str:
    """An address that means the same in any working directory."""
    return address if "://" in address else os.path.abspath(os.path.expanduser(address))


def refuse_incomplete(address: str, what: str = "an address") -> None:
    """Raises BadFileError for an address that names no place: an empty one, or one without a bucket."""
    scheme, mark, rest = address.partition("://")
    if not address:
        raise BadFileError(f"{what} is empty; give a path or an address (a variable of the shell may not be set)")
    if mark and scheme != "file" and not rest.partition("?")[0].strip("/"):
        raise BadFileError(f"{what} {printable(address)} names no bucket; write {printable(scheme)}://BUCKET/PATH")


def join_address(address: str, name: str) -> str:
    """The address of a file or folder in a folder; the query of an s3:// address stays at its end."""
    path, mark, query = address.partition("?") if "://" in address else (address, "", "")
    return f"{path.rstrip('/')}/{name}{mark}{query}"


def extend_address(address: str, ending: str) -> str:
    """The address of the file or folder beside another one whose name has an ending more."""
    folder, name = split_address(address)
    return join_address(folder, name + ending)


def split_address(address: str) -> tuple[str, str]:
    """The folder that contains a file or folder, and its name; the query of an s3:// address goes with the folder."""
    path, mark, query = address.partition("?") if "://" in address else (address, "", "")
    folder, slash, name = path.rstrip("/").rpartition("/")
    return (folder or slash or ".") + mark + query, name


def one_line(error: object, most: int = 200) -> str:
    """The message of an error on one line of at most `most` characters."""
    return printable(" ".join(str(error).split()) or type(error).__name__, most)


def retry(action: Callable[[], Result], say: Callable[[str], None], pauses_sec: Sequence[float] = PAUSES_SEC) -> Result:
    """The result of the action, which is tried again after an OSError; the last attempt raises it."""
    for number, pause in enumerate(pauses_sec):
        try:
            return action()
        except OSError as error:
            if number == 0:
                say(f"fault: storage does not respond: {one_line(error)}; trying again")
            time.sleep(pause)
    return action()


def refuse_special(path: str | os.PathLike[str], follow_links: bool = False) -> None:
    """Raises FileExistsError where a path is that of a device, pipe, socket or folder, which no file may replace."""
    try:
        mode = os.stat(path, follow_symlinks=follow_links).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    if not stat.S_ISREG(mode) and not stat.S_ISLNK(mode):
        raise FileExistsError(f"{printable(path, 500)} is a folder, device, pipe or socket, which no file replaces")


def file_to_write(path: str | os.PathLike[str]) -> str:
    """The file that is written for a path that a user names: links are followed; an address is returned as it is.

    Raises FileExistsError for what no file may replace.
    """
    path = os.path.expanduser(os.fspath(path))
    if "://" in path:
        return path
    refuse_special(path, follow_links=True)
    return os.path.realpath(path)


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[str]:
    """Yields the name of a file beside a path on disk, which becomes that path at the end, or goes after an error.

    So readers see the old content or all of the new one, whenever this process or the machine ends. Several processes
    and machines may write it at once. A link is replaced, since whoever made the folder may have made it, too;
    `file_to_write` follows it. Raises FileExistsError for what no file may replace.
    """
    target = os.fspath(path)
    refuse_special(target)
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    partial = f"{target}.{os.getpid()}-{uuid.uuid4().hex[:8]}{PART}"
    try:
        yield partial
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, target)
    except BaseException:
        with suppress(OSError):  # it would take space on a full disk
            os.remove(partial)
        raise


def write_file(address: str | os.PathLike[str], content: bytes) -> str:
    """Writes a whole file at a path or address that a user names, as `file_to_write` says; returns the address."""
    target = file_to_write(address)
    if "://" in target:
        folder, name = split_address(target)
        Storage.at(folder).write(name, content)
    else:
        with whole_file(target) as partial:
            Path(partial).write_bytes(content)
    return os.fspath(address)


def delete_partials(folder: str | os.PathLike[str], names: Container[str]) -> None:
    """Deletes what writers of these files left in a folder on disk when they were killed."""
    found = os.listdir(folder) if os.path.isdir(folder) else []
    for name in found:
        target, _, own = name.removesuffix(PART).rpartition(".")
        pid = own.partition("-")[0]
        if not name.endswith(PART) or target not in names or not pid.isdigit():
            continue
        if int(pid) == os.getpid() or not is_alive(int(pid)):
            with suppress(OSError):
                os.remove(os.path.join(folder, name))


def delete_old_partials(folder: str | os.PathLike[str]) -> None:
    """Deletes what writers that were killed left in a cache on disk; other machines may write there, so by age."""
    with suppress(OSError):
        for entry in os.scandir(folder):
            if entry.name.endswith(PART) and time.time() - entry.stat().st_ctime > OLD_SEC:
                os.remove(entry.path)


def has_file(address: str, name: str) -> bool:
    """Whether a folder has a file; not where the folder cannot be read."""
    try:
        return Storage.at(address).exists(name)
    except (ValueError, OSError):
        return False


def is_alive(pid: int) -> bool:
    """Whether a process of this host, and of this process namespace, lives."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


@dataclass(frozen=True)
class Storage:
    """A folder; the names of files in it are relative paths with '/'."""

    filesystem: fs.FileSystem
    root: str

    @classmethod
    def at(cls, address: str | os.PathLike[str]) -> Storage:
        """The storage at a local path or an s3:// or gs:// address; raises BadFileError for a malformed address."""
        address = os.fspath(address)
        refuse_incomplete(address)
        address = absolute(address)
        if address.startswith(("http://", "https://")):
            raise BadFileError(f"{address!r} is a web address: download the file and give its path")
        try:
            filesystem, root = fs.FileSystem.from_uri(address)
        except (OSError, ValueError) as error:
            raise BadFileError(f"storage {address!r} cannot be opened: {error}") from error
        return cls(filesystem, root)

    @property
    def is_local(self) -> bool:
        return isinstance(self.filesystem, fs.LocalFileSystem)

    def path(self, name: str = "") -> str:
        """The full path of a file in `filesystem`."""
        return f"{self.root.rstrip('/')}/{name}" if name else self.root

    def folder(self, name: str) -> Storage:
        """The storage of a subfolder."""
        return Storage(self.filesystem, self.path(name))

    def read(self, name: str, most: int = NETWORK_BYTES, key: str | None = None) -> bytes:
        """The content of a file of at most `most` bytes; `key` is the configuration key of that limit.

        Raises FileNotFoundError where it does not exist, BadFileError where it is larger or not a regular file.
        """
        check_size(self.size(name) or 0, most, self.path(name), key)
        with self.open(name) as file:
            return read_at_most(file, most, self.path(name), key)

    def open(self, name: str) -> Any:
        """A file, open for reading from begin to end; raises BadFileError where it is a device or a pipe."""
        if self.is_local:
            return open_regular(self.path(name))
        return self.filesystem.open_input_stream(self.path(name))

    def size(self, name: str) -> int | None:
        """The size of a file in bytes, None for a store that does not tell; raises FileNotFoundError."""
        info = self.filesystem.get_file_info(self.path(name))
        if info.type == fs.FileType.NotFound:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.path(name))
        return info.size

    def write(self, name: str, content: bytes | memoryview) -> None:
        """Writes a whole file; on a local disk atomically, readers see the old or the new content."""
        target = self.path(name)
        if not self.is_local:
            with self.filesystem.open_output_stream(target) as stream:
                stream.write(content)
            return
        with whole_file(target) as partial, open(partial, "wb") as file:
            file.write(content)

    def copy(self, name: str, to: str) -> None:
        """Writes a whole file with the content of another one; raises OSError where that does not exist."""
        if not self.is_local:
            self.filesystem.copy_file(self.path(name), self.path(to))
            return
        with self.open(name) as file, whole_file(self.path(to)) as partial, open(partial, "wb") as out:
            shutil.copyfileobj(file, out)

    def names(self, folder: str = "") -> list[str]:
        """Sorted names of the files and folders directly in a folder; empty where it does not exist."""
        if self.is_local:  # where names need not be text
            with suppress(FileNotFoundError):
                return sorted(os.listdir(self.path(folder)))
            return []
        selector = fs.FileSelector(self.path(folder), allow_not_found=True)
        return sorted(info.base_name for info in self.filesystem.get_file_info(selector))

    def exists(self, name: str) -> bool:
        return self.filesystem.get_file_info(self.path(name)).type != fs.FileType.NotFound

    def written_at(self, name: str) -> float | None:
        """When a file was written, in seconds since 1970; None where it does not exist or the store does not tell."""
        nanoseconds = self.filesystem.get_file_info(self.path(name)).mtime_ns
        return None if nanoseconds is None else nanoseconds / 1e9

    def delete(self, name: str) -> None:
        """Deletes a file, if it exists."""
        if self.exists(name):
            with suppress(FileNotFoundError):  # somebody else was quicker
                self.filesystem.delete_file(self.path(name))

    def delete_folder(self, name: str) -> None:
        """Deletes a folder and its content, if it exists."""
        if self.exists(name):
            self.filesystem.delete_dir(self.path(name))
