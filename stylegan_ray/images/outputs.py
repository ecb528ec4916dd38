"""Where pictures are written: a place that takes none is named with its option, before anything is computed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from stylegan_ray.config import ConfigError
from stylegan_ray.storage import one_line
from stylegan_ray.untrusted import printable

LONGEST_NAME = 230
"""Bytes of a file's name: file systems take 255, and while it is written the name is longer."""
MOST_PIXELS = 1 << 30
"""Pixels of a grid, at most; PNG itself ends at 2^31 in a row."""
GIVE_OUTDIR = "give --outdir without --grid"


def check_file(path: str | os.PathLike[str], option: str) -> None:
    """Raises ConfigError where a file cannot be written at a path; creates nothing."""
    _check_local(path, option, "give a path on a disk, and copy the file from there")
    with writing(path, option):
        if os.path.isdir(path):
            raise ConfigError(
                f"{option} {printable(path)} is a folder; give the path of a file, such as {Path(path) / 'images.png'}"
            )
        if (length := len(os.fsencode(os.path.basename(path)))) > LONGEST_NAME:
            raise ValueError(f"its name has {length} bytes, and {LONGEST_NAME} is the most")
        _check_place(Path(path).absolute().parent)


def check_png(path: str, option: str) -> None:
    """Raises ConfigError for a name that ends as other files do; one without an ending is that of a PNG file, too."""
    ending = os.path.splitext(path)[1]
    if ending.lower() not in ("", ".png"):
        raise ConfigError(
            f"{option} {printable(path)} is written as PNG, and its name ends in {printable(ending)}; give a name that "
            "ends in .png"
        )


def check_folder(path: str | os.PathLike[str], option: str) -> None:
    """Raises ConfigError where files cannot be written into a folder, which may not exist yet; creates nothing."""
    _check_local(path, option, "give a folder on a disk; --n NUM writes to object storage")
    with writing(path, option):
        _check_place(Path(path).absolute())


def check_grid(num: int, resolution: Sequence[int], named: str, way_out: str = GIVE_OUTDIR) -> None:
    """Raises ConfigError where the images, which options name, are too many for one picture."""
    height, width = resolution
    if num * height * width > MOST_PIXELS:
        raise ConfigError(
            f"{named}: a grid of {num} images of {width}x{height} is too large for one file; {way_out}, or at most "
            f"{MOST_PIXELS // (height * width)} images"
        )


def _check_local(path: str | os.PathLike[str], option: str, way_out: str) -> None:
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
