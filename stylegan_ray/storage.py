"""Files of a run on a local disk, NFS or an object store, behind one small class over pyarrow's file systems."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from pyarrow import fs


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
        partial = f"{target}.{os.getpid()}.part"
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, target)

    def names(self, folder: str = "") -> list[str]:
        """Names of the files and folders directly inside a folder, sorted; empty when it does not exist."""
        selector = fs.FileSelector(self.path(folder), allow_not_found=True)
        return sorted(info.base_name for info in self.filesystem.get_file_info(selector))

    def exists(self, name: str) -> bool:
        return self.filesystem.get_file_info(self.path(name)).type != fs.FileType.NotFound

    def delete_folder(self, name: str) -> None:
        """Deletes a folder with all in it; nothing when it does not exist."""
        if self.exists(name):
            self.filesystem.delete_dir(self.path(name))
