"""Files on a local disk, NFS or in an object store: one small class over pyarrow's file systems."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pyarrow import fs

Result = TypeVar("Result")
PAUSES_SEC = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 30.0, 30.0, 60.0, 60.0, 60.0)
"""Pauses between attempts to reach a storage that does not respond, five minutes in all."""
PART = ".part"
"""Suffix of files that are being written."""


def join_address(address: str, name: str) -> str:
    """The address of a file or folder in a folder; the query of an s3:// address stays at its end."""
    path, mark, query = address.partition("?") if "://" in address else (address, "", "")
    return f"{path.rstrip('/')}/{name}{mark}{query}"


def split_address(address: str) -> tuple[str, str]:
    """The folder that contains a file or folder, and its name; the query of an s3:// address goes with the folder."""
    path, mark, query = address.partition("?") if "://" in address else (address, "", "")
    folder, slash, name = path.rstrip("/").rpartition("/")
    return (folder or slash or ".") + mark + query, name


def one_line(error: object, most: int = 200) -> str:
    """The message of an error on one line of at most `most` characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= most else f"{text[: most - 3]}..."


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


@dataclass(frozen=True)
class Storage:
    """A folder; the names of files in it are relative paths with '/'."""

    filesystem: fs.FileSystem
    root: str

    @classmethod
    def at(cls, address: str | os.PathLike[str]) -> Storage:
        """The storage at a local path or an s3:// or gs:// address; raises ValueError for a malformed address."""
        address = os.fspath(address)
        if "://" not in address:
            address = str(Path(address).expanduser().absolute())
        try:
            filesystem, root = fs.FileSystem.from_uri(address)
        except (OSError, ValueError) as error:
            raise ValueError(f"storage {address!r} cannot be opened: {error}") from error
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

    def read(self, name: str) -> bytes:
        """The content of a file; raises FileNotFoundError where it does not exist."""
        with self.filesystem.open_input_stream(self.path(name)) as stream:
            return stream.read()

    def write(self, name: str, content: bytes) -> None:
        """Writes a whole file; on a local disk atomically, readers see the old or the new content."""
        target = self.path(name)
        if not self.is_local:
            with self.filesystem.open_output_stream(target) as stream:
                stream.write(content)
            return
        self.filesystem.create_dir(target.rpartition("/")[0], recursive=True)
        partial = f"{target}.{os.getpid()}{PART}"
        try:
            with open(partial, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, target)
        except OSError:
            with suppress(OSError):  # a partial file would take space on a full disk
                os.remove(partial)
            raise

    def names(self, folder: str = "") -> list[str]:
        """Sorted names of the files and folders directly in a folder; empty where it does not exist."""
        selector = fs.FileSelector(self.path(folder), allow_not_found=True)
        return sorted(info.base_name for info in self.filesystem.get_file_info(selector))

    def exists(self, name: str) -> bool:
        return self.filesystem.get_file_info(self.path(name)).type != fs.FileType.NotFound

    def delete(self, name: str) -> None:
        """Deletes a file, if it exists."""
        if self.exists(name):
            self.filesystem.delete_file(self.path(name))

    def delete_folder(self, name: str) -> None:
        """Deletes a folder and its content, if it exists."""
        if self.exists(name):
            self.filesystem.delete_dir(self.path(name))
