"""A file system that is pickled without credentials: Ray Tune stores its own beside the sweep, in tuner.pkl."""

from __future__ import annotations

from typing import Any

from pyarrow import fs

from stylegan_ray.credentials import without_credentials
from stylegan_ray.storage import Storage

_ADDRESSES: dict[str, str] = {}
"""Addresses with their credentials, by those without; of this process."""


def sealed(storage: Storage, address: str) -> fs.FileSystem:
    """The file system of a storage as Tune may store it: itself, unless its address has credentials."""
    introduce(address)
    plain = without_credentials(address)
    return storage.filesystem if plain == address else fs.PyFileSystem(SealedHandler(plain))


def introduce(address: str) -> None:
    """Makes file systems of this address that come from other processes work in this one."""
    _ADDRESSES[without_credentials(address)] = address


class SealedHandler(fs.FileSystemHandler):
    """Passes everything on to the file system of an address, which it opens when it is first used."""

    def __init__(self, plain: str) -> None:
        self.plain = plain
        self._filesystem: fs.FileSystem | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return SealedHandler, (self.plain,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SealedHandler) and other.plain == self.plain

    def __hash__(self) -> int:
        return hash(self.plain)

    @property
    def filesystem(self) -> fs.FileSystem:
        if self._filesystem is None:
            self._filesystem = Storage.at(_ADDRESSES.get(self.plain, self.plain)).filesystem
        return self._filesystem

    def get_type_name(self) -> str:
        return self.filesystem.type_name

    def normalize_path(self, path: str) -> str:
        return self.filesystem.normalize_path(path)

    def get_file_info(self, paths: list[str]) -> list[fs.FileInfo]:
        return self.filesystem.get_file_info(paths)

    def get_file_info_selector(self, selector: fs.FileSelector) -> list[fs.FileInfo]:
        return self.filesystem.get_file_info(selector)

    def create_dir(self, path: str, recursive: bool) -> None:
        self.filesystem.create_dir(path, recursive=recursive)

    def delete_dir(self, path: str) -> None:
        self.filesystem.delete_dir(path)

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        self.filesystem.delete_dir_contents(path, missing_dir_ok=missing_dir_ok)

    def delete_root_dir_contents(self) -> None:
        self.filesystem.delete_dir_contents("", accept_root_dir=True)

    def delete_file(self, path: str) -> None:
        self.filesystem.delete_file(path)

    def move(self, src: str, dest: str) -> None:
        self.filesystem.move(src, dest)

    def copy_file(self, src: str, dest: str) -> None:
        self.filesystem.copy_file(src, dest)

    def open_input_stream(self, path: str) -> Any:
        return self.filesystem.open_input_stream(path)

    def open_input_file(self, path: str) -> Any:
        return self.filesystem.open_input_file(path)

    def open_output_stream(self, path: str, metadata: Any) -> Any:
        return self.filesystem.open_output_stream(path, metadata=metadata)

    def open_append_stream(self, path: str, metadata: Any) -> Any:
        return self.filesystem.open_append_stream(path, metadata=metadata)
