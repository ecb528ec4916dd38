"""Looks at every picture of a data set once: size, channels, transparency, damage."""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, UnidentifiedImageError

from stylegan_ray.data.decode import MAX_PIXELS, explained, has_alpha, is_grey, is_transparent, opened
from stylegan_ray.data.errors import DataError
from stylegan_ray.data.index import IS_BAD, IS_COLOUR, IS_TRANSPARENT, Progress
from stylegan_ray.data.packed_names import Names

DECODE_UP_TO = 100_000
"""Data sets of more pictures have only the headers of their files read; a damaged one shows up in training."""

HEAD_BYTES = 1 << 16
CHUNK = 64
ORIENTATION = 0x0112
SIDEWAYS = (5, 6, 7, 8)

Reader = Callable[[int, int | None], bytes]
"""Bytes of a picture: all, or at least the first so many."""


@dataclass(frozen=True)
class Scan:
    """What was seen, one row per picture."""

    height: np.ndarray
    width: np.ndarray
    flags: np.ndarray
    crc: np.ndarray
    bad: dict[int, str] = field(default_factory=dict)

    @classmethod
    def empty(cls, num: int) -> Scan:
        height, width, crc = (np.zeros(num, dtype=np.uint32) for _ in range(3))
        return cls(height, width, np.zeros(num, dtype=np.uint8), crc)


def scan(read: Reader, names: Names, progress: Progress | None = None, decode_up_to: int | None = None) -> Scan:
    """Opens every picture in a pool of threads (Pillow decodes without the GIL), decoding it where there are few."""
    num, seen = len(names), Scan.empty(len(names))
    decode = num <= (DECODE_UP_TO if decode_up_to is None else decode_up_to)

    def look_at(start: int) -> int:
        for i in range(start, min(start + CHUNK, num)):
            _look(read, names, i, decode, seen)
        return min(start + CHUNK, num) - start

    done = 0
    with ThreadPoolExecutor(max_workers=min(num_cpus(), 16)) as pool:
        jobs = [pool.submit(look_at, start) for start in range(0, num, CHUNK)]
        try:
            for job in as_completed(jobs):
                done += job.result()
                if progress:
                    progress(done, num, "checking pictures")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return seen


def num_cpus() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _look(read: Reader, names: Names, i: int, decode: bool, seen: Scan) -> None:
    try:
        content = read(i, None if decode else HEAD_BYTES)
        seen.crc[i] = zlib.crc32(content)
        height, width, flags = _decoded(content) if decode else _header(content, lambda: read(i, None))
        seen.height[i], seen.width[i], seen.flags[i] = height, width, flags
    except OSError as error:
        if error.errno is not None and not isinstance(error, (FileNotFoundError, PermissionError)):
            raise DataError(f"picture {names[i]!r} cannot be read from storage: {error}") from error
        seen.flags[i], seen.bad[i] = IS_BAD, explained(error)
    except Exception as error:  # Pillow's readers raise nearly anything on broken files
        seen.flags[i], seen.bad[i] = IS_BAD, explained(error)


def _decoded(content: bytes) -> tuple[int, int, int]:
    image = opened(content)
    return image.height, image.width, _flags(image, is_transparent(image))


def _header(content: bytes, read_all: Callable[[], bytes]) -> tuple[int, int, int]:
    """From the first bytes of a file, or from all of it where its header stands further on."""
    try:
        image = Image.open(io.BytesIO(content))
    except UnidentifiedImageError:
        image = Image.open(io.BytesIO(read_all()))
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"is {image.height}x{image.width} pixels, more than the {MAX_PIXELS} allowed")
    sideways = "exif" in image.info and image.getexif().get(ORIENTATION) in SIDEWAYS
    height, width = (image.width, image.height) if sideways else (image.height, image.width)
    return height, width, _flags(image, has_alpha(image))


def _flags(image: Image.Image, transparent: bool) -> int:
    return (0 if is_grey(image) else IS_COLOUR) | (IS_TRANSPARENT if transparent else 0)
