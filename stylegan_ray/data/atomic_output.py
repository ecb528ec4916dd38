"""Places where data sets are written: they appear as a whole or not at all."""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

from pyarrow import fs

from stylegan_ray.data.errors import DataError
from stylegan_ray.data.left_out import list_names
from stylegan_ray.lease import PREFIX as LEASE
from stylegan_ray.storage import Storage, refuse_special, split_address
from stylegan_ray.untrusted import reading
from stylegan_ray.untrusted_text import parse_json

MARK_BYTES = 1 << 24


class Output(Protocol):
    """A place for new files, which replace what is there when they are finished."""

    def open(self, name: str) -> BinaryIO:
        """A new file; close it before `finish`."""
        ...

    def finish(self) -> None:
        """Moves the files to their place, where they replace older ones."""
        ...

    def abandon(self) -> None:
        """Deletes what was written."""
        ...


@contextmanager
def write_whole(output: Output) -> Iterator[Output]:
    """Finishes the output when the block ends, or abandons it when the block raises."""
    try:
        yield output
        output.finish()
    except BaseException:
        output.abandon()
        raise


def delete_leftovers(address: str, is_file: bool) -> None:
    """Deletes what a writer of a place left when it was killed; nobody else may be writing it."""
    _output_at(address, is_file).delete_leftovers()


def mark_of_unfinished(name: str | None) -> str:
    """The object beside a file, or in the folder where the name is None, that is there until a data set is whole."""
    return f".{name}.unfinished" if name else ".unfinished"


def open_output(address: str, is_file: bool, endings: Sequence[str], overwrite: bool, num_bytes: int = 0) -> Output:
    """The output for a data set of one file or of a folder of files with these endings.

    Raises DataError when the place is taken (and `overwrite` is false, or it holds no data set), cannot be written to,
    or has fewer than `num_bytes` free.
    """
    with _as_data_errors(address):
        output = _output_at(address, is_file)
        _check_place(output.names(), address, is_file, endings, overwrite)
        output.begin()
    if output.free_bytes() < num_bytes:
        free = output.free_bytes()
        output.abandon()
        raise DataError(
            f"DEST {address} needs {num_bytes / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free; give a DEST with "
            "more room, or a smaller --resolution"
        )
    return output


def check_place(address: str, is_file: bool, endings: Sequence[str], overwrite: bool) -> None:
    """Raises DataError as `open_output` does when the place is taken; writes nothing."""
    with _as_data_errors(address):
        _check_place(_output_at(address, is_file).names(), address, is_file, endings, overwrite)


@contextmanager
def _as_data_errors(address: str) -> Iterator[None]:
    """Inside, errors of the place are DataErrors."""
    try:
        yield
    except (OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"DEST {address} cannot be written: {error}; give another DEST") from error


def _output_at(address: str, is_file: bool) -> StoredOutput | LocalOutput:
    return StoredOutput(address, is_file) if "://" in address else LocalOutput(address, is_file)


def _check_place(names: list[str] | None, address: str, is_file: bool, endings: Sequence[str], overwrite: bool) -> None:
    """Raises DataError unless the place is empty, or holds a data set and `overwrite` is true."""
    if names is None and not is_file:
        raise DataError(
            f"DEST {address} is a file, but a folder of {', '.join(endings)} files is written; give another DEST"
        )
    if names and is_file:
        raise DataError(f"DEST {address} is a folder, but a {endings[0]} file is written; give another DEST")
    foreign = [name for name in names or () if not name.endswith(tuple(endings))]
    if foreign:
        raise DataError(
            f"DEST {address} holds files that are not part of a data set, {list_names(foreign)}; give another folder"
        )
    if (names or names is None) and not overwrite:
        raise DataError(f"DEST {address} exists; give another DEST, or replace it with --overwrite")


class LocalOutput:
    """Files on a local disk, written beside their place under a temporary name."""

    def __init__(self, path: str, is_file: bool) -> None:
        self.is_file, self.path = is_file, Path(os.path.realpath(os.path.expanduser(path)))
        self.partial = self.path.with_name(f".{self.path.name}.{uuid.uuid4().hex[:8]}.part")

    def names(self) -> list[str] | None:
        """Names in the folder at the place (none if it does not exist), or None when it is a file."""
        if self.path.is_dir():
            return sorted(os.listdir(self.path))
        refuse_special(self.path)
        return None if self.path.exists() else []

    def begin(self) -> None:
        self.partial.mkdir(parents=True)

    def delete_leftovers(self) -> None:
        """Deletes what a writer of this place left when it was killed, and puts back the data set that it replaced."""
        older = re.compile(rf"\.{re.escape(self.path.name)}\.[0-9a-f]{{8}}\.(part|old)")
        for path in list(self.path.parent.iterdir()) if self.path.parent.is_dir() else []:
            match = older.fullmatch(path.name)
            if match and match[1] == "old" and not self.path.exists():
                os.rename(path, self.path)
            elif match:
                shutil.rmtree(path, ignore_errors=True)

    def free_bytes(self) -> float:
        return shutil.disk_usage(self.partial).free

    def open(self, name: str) -> BinaryIO:
        return open(self.partial / name, "wb")

    def finish(self) -> None:
        for path in self.partial.iterdir():
            _flush(path)
        if self.is_file:
            (file,) = self.partial.iterdir()  # its name is that of DEST, which may be a link
            os.replace(file, self.path)
            self.partial.rmdir()
        elif self.path.exists():
            older = self.partial.with_suffix(".old")
            os.rename(self.path, older)
            os.rename(self.partial, self.path)
            shutil.rmtree(older)
        else:
            os.rename(self.partial, self.path)

    def abandon(self) -> None:
        older = self.partial.with_suffix(".old")
        if older.exists() and not self.path.exists():  # ended between the two renames of `finish`
            os.rename(older, self.path)
        shutil.rmtree(self.partial, ignore_errors=True)


def _flush(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


class StoredOutput:
    """Files in an object store, through pyarrow; each appears under its name when it is closed.

    An object store renames nothing. Until all are whole, another object says so, and names them: data sets with it are
    not read, and the next writer deletes them.
    """

    def __init__(self, address: str, is_file: bool) -> None:
        folder, name = split_address(address)
        self.storage = Storage.at(folder if is_file else address)
        self.name = name if is_file else None
        self.mark = mark_of_unfinished(self.name)
        self.older: list[str] = []
        self.opened: list[str] = []

    def names(self) -> list[str] | None:
        """Names below the folder at the place (none if it does not exist), or None when it is a file."""
        place = self.storage.path(self.name or "")
        if self.storage.filesystem.get_file_info(place).type == fs.FileType.File:
            return None
        selector = fs.FileSelector(place, allow_not_found=True, recursive=True)
        found = self.storage.filesystem.get_file_info(selector)
        names = (info.path[len(place) :].lstrip("/") for info in found if info.type == fs.FileType.File)
        return sorted(name for name in names if not name.startswith(LEASE) and name != self.mark)

    def begin(self) -> None:
        """Raises OSError when nothing can be written."""
        self.storage.filesystem.create_dir(self.storage.root, recursive=True)
        names = self.names()
        self.older = [self.name] if names is None and self.name else names or []
        self._write_mark()

    def delete_leftovers(self) -> None:
        """Deletes what a killed writer left, and of the data set that it replaced what is no whole one any more."""
        if not self.storage.exists(self.mark):
            return
        with reading(self.storage.path(self.mark), DataError):
            tree = parse_json(self.storage.read(self.mark, MARK_BYTES), self.mark, MARK_BYTES)
            self.older, self.opened = list(map(str, tree["older"])), list(map(str, tree["opened"]))
        is_broken = bool(set(self.older) & set(self.opened))
        names = self.names()
        there: set[str] = {str(self.name)} if names is None else set(names)
        self._delete(there & (set(self.opened) | set(self.older if is_broken else ())))
        self.storage.delete(self.mark)

    def _write_mark(self) -> None:
        self.storage.write(self.mark, json.dumps({"older": self.older, "opened": self.opened}).encode())

    def free_bytes(self) -> float:
        return float("inf")

    def open(self, name: str) -> BinaryIO:
        self.opened.append(name)
        self._write_mark()
        stream: Any = self.storage.filesystem.open_output_stream(self.storage.path(name))
        return cast(BinaryIO, stream)

    def finish(self) -> None:
        """Deletes files of the older data set that the new one does not have."""
        if self.name is None:
            self._delete(set(self.names() or ()).difference(self.opened))
        self.storage.delete(self.mark)

    def abandon(self) -> None:
        """Deletes the new files; the mark stays where only parts of the older data set are left."""
        self._delete(self.opened)
        replaced = set(self.older) & set(self.opened)
        if not replaced or replaced == set(self.older):
            self.storage.delete(self.mark)

    def _delete(self, names: Sequence[str] | set[str]) -> None:
        for name in names:
            if self.storage.exists(name):
                self.storage.filesystem.delete_file(self.storage.path(name))
