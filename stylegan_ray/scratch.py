"""Folders for temporary files: deleted with the process that made them, or by the next one if that one was killed."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

from stylegan_ray.locks import is_locked, lock

PREFIX = "stylegan_ray-scratch-"

_held: dict[Path, int] = {}
"""The folders of this process, and their open files, which are locked."""


def new_folder() -> Path:
    """Makes an empty folder for temporary files, and deletes those of processes that were killed."""
    delete_abandoned(Path(tempfile.gettempdir()))
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        file = open_folder(folder)
        # Before it is locked, another process may take it for an abandoned one.
        is_taken = file is None or (not lock(file) and is_locked(str(folder)))
        if file is not None and not is_taken and folder.exists():
            _held[folder] = file
            return folder
        close(file)


def delete_folder(folder: Path) -> None:
    """Deletes a folder that new_folder made, with its files."""
    shutil.rmtree(folder, ignore_errors=True)
    close(_held.pop(folder, None))


def delete_abandoned(parent: Path) -> None:
    """Deletes this user's folders in another one that no process has locked."""
    for folder in parent.glob(f"{PREFIX}*"):
        file = open_folder(folder)
        if file is not None and os.fstat(file).st_uid == os.getuid() and lock(file):
            shutil.rmtree(folder, ignore_errors=True)
        close(file)


def open_folder(folder: Path) -> int | None:
    """An open folder; None where it is none, or gone."""
    try:
        return os.open(folder, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_DIRECTORY)
    except OSError:
        return None


def close(file: int | None) -> None:
    """Closes what open_folder returned."""
    if file is not None:
        os.close(file)


@atexit.register
def _delete_all() -> None:
    for folder in list(_held):
        delete_folder(folder)
