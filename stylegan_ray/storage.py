"""Files of a run on a local disk, NFS or an object store, behind one small class over pyarrow's file systems."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pyarrow import fs

Answer = TypeVar("Answer")
PAUSES_SEC = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 30.0, 30.0, 60.0, 60.0, 60.0)
"""Five minutes of patience with a storage that does not answer."""


PART = ".part"
"""Ends the names of files that are being written."""


def joined(address: str, name: str) -> str:
    """The address of something inside a folder; the query of an s3:// address stays behind it."""
    path, mark, query = address.partition("?") if "://" in address else (address, "", "")
    return f"{path.rstrip('/')}/{name}{mark}{query}"


def parted(address: str) -> tuple[str, str]:
    """The folder that something lies in, and its name; the query of an s3:// address goes with the folder."""
    path, mark, query = address.partition("?") if "://" in address else (address, "", "")
    folder, slash, name = path.rstrip("/").rpartition("/")
    return (folder or slash or ".") + mark + query, name


def one_line(error: object, most: int = 200) -> str:
    """What an error says, on one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= most else f"{text[: most - 3]}..."


def patiently(
    action: Callable[[], Answer], say: Callable[[str], None], pauses_sec: Sequence[float] = PAUSES_SEC
) -> Answer:
    """What the action returns; after an OSError it is tried again, in the end for good."""
    for number, pause in enumerate(pauses_sec):
        try:
            return action()
        except OSError as error:
            if number == 0:
                say(f"fault: storage does not answer: {one_line(error)}; trying again")
            time.sleep(pause)
    return action()


@dataclass(frozen=True)
class Storage:
    """A folder somewhere; paths inside it are relative and use '/'."""

    filesystem: fs.FileSystem
    root: str

    @classmethod
    def at(cls, address: str | os.PathLike[str]) -> Storage:
        """The storage at a folder or an s3:// or gs:// address; raises ValueError when the address is malformed."""
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
        """The full path of a file, as the file system knows it."""
        return f"{self.root.rstrip('/')}/{name}" if name else self.root

    def folder(self, name: str) -> Storage:
        """The storage of a sub-folder."""
        return Storage(self.filesystem, self.path(name))

    def read(self, name: str) -> bytes:
        """The content of a file; raises FileNotFoundError."""
        with self.filesystem.open_input_stream(self.path(name)) as stream:
            return stream.read()

    def write(self, name: str, content: bytes) -> None:
        """Writes a whole file; on a local disk readers see the old or the new one, never a part."""
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
            with suppress(OSError):  # on a full disk half a file would only be in the way
                os.remove(partial)
            raise

    def names(self, folder: str = "") -> list[str]:
        """Names of the files and folders directly inside a folder, sorted; empty when it does not exist."""
        selector = fs.FileSelector(self.path(folder), allow_not_found=True)
        return sorted(info.base_name for info in self.filesystem.get_file_info(selector))

    def exists(self, name: str) -> bool:
        return self.filesystem.get_file_info(self.path(name)).type != fs.FileType.NotFound

    def delete(self, name: str) -> None:
        """Deletes a file; nothing when it does not exist."""
        if self.exists(name):
            self.filesystem.delete_file(self.path(name))

    def delete_folder(self, name: str) -> None:
        """Deletes a folder with all in it; nothing when it does not exist."""
        if self.exists(name):
            self.filesystem.delete_dir(self.path(name))
