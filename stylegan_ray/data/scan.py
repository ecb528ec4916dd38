"""Reads every image of a data set once: size, channels, transparency, damage."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, UnidentifiedImageError

from stylegan_ray.cores import num_cores
from stylegan_ray.data.decode import explain_error, has_alpha, is_grey, is_transparent, open_image, read_header
from stylegan_ray.data.errors import DataError
from stylegan_ray.data.index import IS_BAD, IS_COLOUR, IS_TRANSPARENT, Progress
from stylegan_ray.data.packed_names import PackedNames

DECODE_UP_TO = 100_000
"""In larger data sets only headers are read; damage further on is found in training."""

HEAD_BYTES = 1 << 16
"""Bytes of a file that are read for its header."""
CHUNK = 64
"""Images per job of the thread pool."""
ORIENTATION = 0x0112
SIDEWAYS = (5, 6, 7, 8)

Reader = Callable[[int, int | None], bytes]
"""The bytes of an image file: all, or at least the first so many."""


@dataclass(frozen=True)
class Scan:
    """What was found, one row per image; the arrays are fields of Index."""

    height: np.ndarray
    width: np.ndarray
    flags: np.ndarray
    crc: np.ndarray
    bad: dict[int, str] = field(default_factory=dict)

    @classmethod
    def empty(cls, num: int) -> Scan:
        height, width, crc = (np.zeros(num, dtype=np.uint32) for _ in range(3))
        return cls(height, width, np.zeros(num, dtype=np.uint8), crc)


def scan(read: Reader, names: PackedNames, progress: Progress | None = None, decode_up_to: int | None = None) -> Scan:
    """Opens every image in a thread pool (Pillow decodes without the GIL), and decodes it if there are few enough."""
    num, result = len(names), Scan.empty(len(names))
    decode = num <= (DECODE_UP_TO if decode_up_to is None else decode_up_to)

    def check(start: int) -> int:
        for i in range(start, min(start + CHUNK, num)):
            _check(read, names, i, decode, result)
        return min(start + CHUNK, num) - start

    done = 0
    with ThreadPoolExecutor(max_workers=min(num_cores(), 16)) as pool:
        jobs = [pool.submit(check, start) for start in range(0, num, CHUNK)]
        try:
            for job in as_completed(jobs):
                done += job.result()
                if progress:
                    progress(done, num, "checking images")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return result


def _check(read: Reader, names: PackedNames, i: int, decode: bool, result: Scan) -> None:
    try:
        content = read(i, None if decode else HEAD_BYTES)
        result.crc[i] = zlib.crc32(content)
        height, width, flags = _read_whole(content) if decode else _read_header(content, lambda: read(i, None))
        result.height[i], result.width[i], result.flags[i] = height, width, flags
    except OSError as error:
        if error.errno is not None and not isinstance(error, (FileNotFoundError, PermissionError)):
            raise DataError(
                f"image {names[i]!r} cannot be read from storage: {error}; try again when storage works"
            ) from error
        result.flags[i], result.bad[i] = IS_BAD, explain_error(error)
    except Exception as error:  # Pillow's readers raise nearly anything on broken files
        result.flags[i], result.bad[i] = IS_BAD, explain_error(error)


def _read_whole(content: bytes) -> tuple[int, int, int]:
    image = open_image(content)
    return image.height, image.width, _flags(image, is_transparent(image))


def _read_header(content: bytes, read_all: Callable[[], bytes]) -> tuple[int, int, int]:
    """Height, width and flags from the first bytes of a file, or from all of it if its header needs more."""
    try:
        image = read_header(content)
    except UnidentifiedImageError:
        image = read_header(read_all())
    sideways = "exif" in image.info and image.getexif().get(ORIENTATION) in SIDEWAYS
    height, width = (image.width, image.height) if sideways else (image.height, image.width)
    return height, width, _flags(image, has_alpha(image))


def _flags(image: Image.Image, transparent: bool) -> int:
    return (0 if is_grey(image) else IS_COLOUR) | (IS_TRANSPARENT if transparent else 0)
