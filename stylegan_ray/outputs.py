"""Where commands write: a place that takes no files is named with its option, before anything is computed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stylegan_ray.config import ConfigError
from stylegan_ray.storage import Storage, file_to_write, one_line, split_address
from stylegan_ray.untrusted import printable

LONGEST_NAME = 230
"""Bytes of a file's name: file systems take 255, and while it is written the name is longer."""


def check_file(address: str | os.PathLike[str], option: str, makes_folder: bool = True) -> None:
    """Raises ConfigError where a file cannot be written at a path or address; creates nothing.

    Without `makes_folder` its folder must exist.
    """
    with writing(address, option):
        if "://" in os.fspath(address):
            Storage.at(split_address(os.fspath(address))[0])
            return
        path = Path(address).expanduser()
        if os.path.isdir(path):
            raise ConfigError(f"{option} {printable(address)} is a folder; give the path of a file in it")
        if (length := len(os.fsencode(path.name))) > LONGEST_NAME:
            raise ValueError(f"its name has {length} bytes, and {LONGEST_NAME} is the most")
        if "\0" in str(path):
            raise ValueError("it holds a null character")
        if not makes_folder and not path.absolute().parent.is_dir():
            raise FileNotFoundError("its folder does not exist")
        _check_place(Path(file_to_write(path)).parent)


def check_folder(path: str | os.PathLike[str], option: str) -> None:
    """Raises ConfigError where files cannot be written into a folder, which may not exist yet; creates nothing."""
    refuse_address(path, option, "give a folder on a disk; --n NUM writes to object storage")
    with writing(path, option):
        _check_place(Path(path).absolute())


def refuse_address(path: str | os.PathLike[str], option: str, way_out: str) -> None:
    """Raises ConfigError for an address of object storage, which would become a folder of that name."""
    if "://" in os.fspath(path):
        raise ConfigError(f"{option} {printable(path)} is an address, and this command writes to disks only; {way_out}")


def _check_place(folder: Path) -> None:
    """Raises OSError where the folder, or the first one above it that exists, takes no new files."""
    if "\0" in str(folder):
        raise ValueError("it holds a null character")
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise NotADirectoryError(f"{printable(folder)} is not a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{printable(folder)} cannot be written to")


@contextmanager
def writing(path: str | os.PathLike[str], option: str) -> Iterator[None]:
    """Turns what prevents a file from being written into ConfigError with its option and path."""
    try:
        yield
    except ConfigError:
        raise
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{option} {printable(path)} cannot be written: {one_line(error)}; give another path"
        ) from error
