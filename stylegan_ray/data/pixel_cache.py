"""Decoded pictures of a data set that is small enough, kept in files that all processes of a node share."""

from __future__ import annotations

import copy
import errno
import hashlib
import json
import logging
import os
import shutil
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from PIL import features

from stylegan_ray.data.dataset import Dataset, DecodedPictures
from stylegan_ray.data.files import Descriptor, PerProcess
from stylegan_ray.data.index import cache_folder
from stylegan_ray.data.scan import DECODE_UP_TO

KEPT_VERSION = 1
"""Raised when a picture file would be decoded to other pixels than before, or pixels kept in another way."""
LIBRARIES = ("jpg", "libjpeg_turbo", "jpg_2000", "webp", "avif", "libtiff", "littlecms2", "zlib", "zlib_ng")
"""Pillow's libraries that decide, with Pillow itself, which pixels a file is decoded to."""
ENDING = ".pixels"
CRC = struct.Struct("<I")
ABSENT = CRC.pack(0)

log = logging.getLogger(__name__)


def kept(dataset: Dataset, most_gb: float, folder: Path | None = None) -> Dataset:
    """The data set, with pictures that are decoded once on this node; the same one where they cannot be kept.

    All that is kept in the folder, `decoded` in the cache folder if none is given, takes no more than `most_gb`.
    """
    pictures, most_bytes = dataset.pictures, int(most_gb * 1e9)
    if not (isinstance(pictures, DecodedPictures) and _is_known_by_content(dataset) and hasattr(os, "pread")):
        return dataset
    needed = needed_bytes(dataset)
    if needed > most_bytes:
        return dataset
    path = os.path.abspath(folder or cache_folder() / "decoded")
    try:
        _check_room(path, needed)
    except OSError as error:
        _warn(path, error)
        return dataset
    result = copy.copy(dataset)
    result.pictures = KeptPictures(pictures, dataset.rows, path, _key(dataset), most_bytes)
    return result


def needed_bytes(dataset: Dataset) -> int:
    """What the decoded pictures of a data set take at most: at all levels, as a growing network asks for them."""
    num_levels = min(dataset.resolution).bit_length()
    return sum(_file_bytes(dataset.num_images, dataset.shape(level)) for level in range(num_levels))


class KeptPictures:
    """Pictures of the rows of a data set, from the files that keep them, or decoded now and kept for the next time.

    A file that cannot be read or written is left alone from there on, with one warning in each process.
    """

    def __init__(self, pictures: DecodedPictures, rows: np.ndarray, folder: str, key: str, most_bytes: int) -> None:
        self.pictures, self.rows, self.folder, self.key, self.most_bytes = pictures, rows, folder, key, most_bytes
        self._file = PerProcess(self._opened)
        self._is_usable = True

    def __reduce__(self) -> tuple[Any, ...]:
        return KeptPictures, (self.pictures, self.rows, self.folder, self.key, self.most_bytes)

    def read(self, entry: int, name: str, level: int) -> np.ndarray:
        """uint8 [C,H>>level,W>>level], perhaps read-only; raises BadImage, or OSError when the data's storage fails."""
        place = int(np.searchsorted(self.rows, entry))
        pixels = self._get(level, place)
        if pixels is not None:
            return pixels
        content = self.pictures.content(entry, name)
        pixels = self.pictures.decoded(name, content, level)
        if zlib.crc32(content) == self.pictures.crc[entry]:  # or the file has changed since the data set was opened
            self._put(level, place, pixels)
        return pixels

    def _get(self, level: int, place: int) -> np.ndarray | None:
        try:
            return self._file(level).get(place) if self._is_usable else None
        except OSError as error:
            self._give_up(error)
            return None

    def _put(self, level: int, place: int, pixels: np.ndarray) -> None:
        try:
            if self._is_usable:
                self._file(level).put(place, pixels)
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self._is_usable = False
        _warn(self.folder, error)

    def _opened(self, level: int) -> PixelFile:
        (height, width), num_channels = self.pictures.decoder.resolution, self.pictures.decoder.num_channels
        shape = num_channels, height >> level, width >> level
        path = Path(self.folder, f"{self.key}-{level}{ENDING}")
        return PixelFile(path, len(self.rows), shape, self.most_bytes)


class PixelFile:
    """Pixels by place: a table of CRC-32, in which 0 means absent, then the pixels of all places.

    Nothing is locked: pixels are written before their CRC, and what does not fit its CRC is absent. So a file may be
    written by many processes at once, cut, damaged, or removed while it is open.
    """

    def __init__(self, path: Path, num: int, shape: tuple[int, int, int], most_bytes: int) -> None:
        self.shape, self.picture_bytes, self.start = shape, _file_bytes(1, shape) - CRC.size, CRC.size * num
        self.salt = zlib.crc32(path.name.encode())
        self.file = _opened_or_begun(path, _file_bytes(num, shape), most_bytes)

    def get(self, place: int) -> np.ndarray | None:
        """The pixels at a place, read-only; None when they are not there."""
        crc = os.pread(self.file.number, CRC.size, CRC.size * place)
        if crc == ABSENT:
            return None
        content = os.pread(self.file.number, self.picture_bytes, self.start + place * self.picture_bytes)
        return np.frombuffer(content, np.uint8).reshape(self.shape) if self._crc(place, content) == crc else None

    def put(self, place: int, pixels: np.ndarray) -> None:
        """Keeps the pixels of a place."""
        content = pixels.tobytes()
        if os.pwrite(self.file.number, content, self.start + place * self.picture_bytes) == len(content):
            os.pwrite(self.file.number, self._crc(place, content), CRC.size * place)

    def _crc(self, place: int, content: bytes) -> bytes:
        """The CRC-32 of pixels that belong to this place of this file, never that of absent ones."""
        return CRC.pack(zlib.crc32(content, self.salt ^ place) or 1)


def _is_known_by_content(dataset: Dataset) -> bool:
    """Whether the fingerprint of the data set tells its pictures apart; of many pictures only headers were read."""
    return len(dataset.names) <= DECODE_UP_TO


def _key(dataset: Dataset) -> str:
    """Names what is decoded and by what."""
    decoded_by = [KEPT_VERSION, PIL.__version__, *(features.version(name) for name in LIBRARIES)]
    return hashlib.sha256(json.dumps([dataset.fingerprint, decoded_by]).encode()).hexdigest()[:32]


def _file_bytes(num: int, shape: tuple[int, int, int]) -> int:
    return num * (CRC.size + int(np.prod(shape)))


def _check_room(folder: str, needed: int) -> None:
    """Makes the folder; raises OSError when it cannot be written to, or when half of the free disk would be taken."""
    os.makedirs(folder, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))
    taken = sum(512 * stat.st_blocks for _, stat in _files(Path(folder)))
    free = taken + shutil.disk_usage(folder).free
    if 2 * needed > free:
        raise OSError(errno.ENOSPC, f"they may take {needed / 1e9:.3g} GB, more than half of {free / 1e9:.3g} GB free")


def _opened_or_begun(path: Path, num_bytes: int, most_bytes: int) -> Descriptor:
    """The file, from now on the most recently used one; a new one is as long as it may become, but takes no room."""
    try:
        file = Descriptor(str(path), os.O_RDWR | os.O_CREAT | os.O_EXCL)
    except FileExistsError:
        file = Descriptor(str(path), os.O_RDWR | os.O_CREAT)
        os.utime(file.number)
        return file
    try:
        os.ftruncate(file.number, num_bytes)
        _make_room(path, most_bytes)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return file


def _make_room(begun: Path, most_bytes: int) -> None:
    """Removes the files that nobody has opened for the longest time, until all may grow to their full length."""
    files = sorted(_files(begun.parent), key=lambda file: file[1].st_mtime_ns)
    total = sum(stat.st_size for _, stat in files)
    for path, stat in files:
        if total > most_bytes and path != begun:
            path.unlink(missing_ok=True)  # who has it open still reads and writes it
            total -= stat.st_size


def _files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """The files that keep pictures, and what the system says of them."""
    for path in folder.glob(f"*{ENDING}"):
        with suppress(FileNotFoundError):
            yield path, path.stat()


def _warn(folder: str, error: OSError) -> None:
    reason = error.strerror or error
    log.warning(
        "decoded pictures cannot be kept in %s: %s; they are decoded again in each pass (cluster.keep_decoded_gb 0 "
        "keeps none, $STYLEGAN_RAY_CACHE names another cache folder)", folder, reason
    )  # fmt: skip
