"""Reads every image of a data set once: size, channels, transparency, damage."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from stylegan_ray.cores import num_cores
from stylegan_ray.data.decode import (
    ALPHA_MODES,
    DEEP_MODES,
    GRAY_MODES,
    MAX_IMAGE_BYTES,
    MOST_BYTES_PER_PIXEL,
    decoded,
    depth_of,
    explain_error,
    has_alpha,
    has_deep_channels,
    is_gray,
    is_transparent,
    missing_decoder,
    orientation_of,
    read_header,
)
from stylegan_ray.data.errors import DataError
from stylegan_ray.data.headers import PNG_COLORS, plain_header
from stylegan_ray.data.index import IS_BAD, IS_COLOR, IS_TRANSPARENT, Progress
from stylegan_ray.data.left_out import Endings, image_endings, quoted
from stylegan_ray.data.packed_names import PackedNames
from stylegan_ray.data.splits import Parents
from stylegan_ray.untrusted import large_turn

DECODE_UP_TO = 100_000
"""In larger data sets only headers are read; damage further on is found in training."""

HEAD_BYTES = 1 << 16
"""Bytes of a file that are read for its header."""
CHUNK = 64
"""Images per job of the thread pool."""
TRIALS, FEW, QUICK_SEC = 8, 4, 1e-4
"""Storage answers at once where one of so many trials takes less time than this for each of a few headers."""
FLAGS = {
    mode: (0 if mode in GRAY_MODES else IS_COLOR) | (IS_TRANSPARENT if mode in ALPHA_MODES else 0)
    for mode in PNG_COLORS.values()
}
"""Of images of which only the header is read, by Pillow's mode."""
SIDEWAYS = (5, 6, 7, 8)
"""EXIF orientations of images of which height and width change places."""

Reader = Callable[[int, int | None], bytes]
"""The bytes of an image file: all, or at least the first so many."""


@dataclass(frozen=True)
class Reading:
    """How images are looked for and looked at, as the data section says."""

    decode_up_to: int | None = None
    """Larger data sets are not decoded but only their headers read (None: DECODE_UP_TO)."""
    max_bytes: int = MAX_IMAGE_BYTES
    image_column: str | None = None
    split: str | None = None
    extra_formats: tuple[str, ...] = ()
    parents: Parents | None = None
    """Where the splits of a folder of images are, of which one is read."""

    @property
    def endings(self) -> Endings:
        """Endings of image files."""
        return image_endings(self.extra_formats)


@dataclass(frozen=True)
class Scan:
    """What was found, one row per image; the arrays are fields of Index."""

    height: np.ndarray
    width: np.ndarray
    flags: np.ndarray
    crc: np.ndarray
    depth: np.ndarray
    bad: dict[int, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    @classmethod
    def empty(cls, num: int) -> Scan:
        height, width, crc = (np.zeros(num, dtype=np.uint32) for _ in range(3))
        flags, depth = (np.zeros(num, dtype=np.uint8) for _ in range(2))
        return cls(height, width, flags, crc, depth)


def scan(read: Reader, names: PackedNames, progress: Progress | None = None, reading: Reading | None = None) -> Scan:
    """Opens every image in a thread pool (Pillow decodes without the GIL), and decodes it if there are few enough.

    Images with more than 8 bits are always decoded, since the largest value decides how they are reduced.
    """
    num, result, reading = len(names), Scan.empty(len(names)), reading or Reading()
    decode = num <= (DECODE_UP_TO if reading.decode_up_to is None else reading.decode_up_to)

    def check(entries: range) -> int:
        for i in entries:
            with large_turn:
                _check(read, names, i, decode, result, reading)
        return len(entries)

    done = 0
    for count in _call_all(check, num, only_headers=not decode):
        done += count
        if progress:
            progress(done, num, "checking images")
    return result


def _call_all(check: Callable[[range], int], num: int, only_headers: bool) -> Iterator[int]:
    """What `check` returns for ranges of images, in any order, from a thread pool.

    This thread alone works where there is one range, and where storage answers headers at once: a header takes so
    little time that threads would mostly wait for each other.
    """
    at, is_quick = 0, False
    while only_headers and not is_quick and at < min(TRIALS * FEW, num):
        few, began = range(at, min(at + FEW, num)), time.perf_counter()
        count = check(few)
        is_quick = time.perf_counter() - began < QUICK_SEC * count
        at = few.stop
        yield count
    chunks = [range(start, min(start + CHUNK, num)) for start in range(at, num, CHUNK)]
    if is_quick or len(chunks) < 2:
        yield from map(check, chunks)
        return
    with ThreadPoolExecutor(max_workers=min(num_cores(), 16)) as pool:
        jobs = [pool.submit(check, chunk) for chunk in chunks]
        try:
            yield from (job.result() for job in as_completed(jobs))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _check(read: Reader, names: PackedNames, i: int, decode: bool, result: Scan, reading: Reading) -> None:
    content = b""
    try:
        content = read(i, None if decode else HEAD_BYTES)
        result.crc[i] = zlib.crc32(content)
        found = None if decode else _read_header(content, lambda: read(i, None), reading)
        if found is None:
            found = _read_whole(content if decode else read(i, None), reading)
        result.height[i], result.width[i], result.flags[i], result.depth[i] = found
        return
    except DataError:
        raise
    except OSError as error:
        is_of_machine = error.errno is not None or isinstance(error, BlockingIOError)
        if is_of_machine and not isinstance(error, (FileNotFoundError, PermissionError)):
            raise DataError(
                f"image {quoted(names[i])} cannot be read from storage: {error}; try again when storage works"
            ) from error
        reason = explain_error(error, content)
    except Exception as error:  # Pillow's readers raise nearly anything on broken files
        reason, is_of_machine = explain_error(error, content), isinstance(error, MemoryError)
    result.flags[i], result.bad[i] = IS_BAD, reason
    if is_of_machine or missing_decoder(content) is not None:
        result.faults.append(f"{quoted(names[i])} ({reason})")


def _read_whole(content: bytes, reading: Reading) -> tuple[int, int, int, int]:
    """Height, width, flags and depth of a decoded image."""
    with decoded(content, reading.max_bytes, reading.extra_formats) as image:
        depth = depth_of(image, content)
        return image.height, image.width, _flags(image, is_transparent(image)), depth


def _read_header(content: bytes, read_all: Callable[[], bytes], reading: Reading) -> tuple[int, int, int, int] | None:
    """The same from the first bytes of a file, or from all of it if its header needs more; None for deep images."""
    header = plain_header(content)
    if header is not None and header.height * header.width * MOST_BYTES_PER_PIXEL <= reading.max_bytes:
        return header.height, header.width, FLAGS[header.mode], 0
    try:
        image = read_header(content, reading.max_bytes, reading.extra_formats)
    except Exception:  # Pillow's readers raise nearly anything on files that are cut
        content = read_all()
        image = read_header(content, reading.max_bytes, reading.extra_formats)
    if image.mode in DEEP_MODES or has_deep_channels(image, content):
        return None
    sideways = orientation_of(image) in SIDEWAYS
    height, width = (image.width, image.height) if sideways else (image.height, image.width)
    return height, width, _flags(image, has_alpha(image)), 0


def _flags(image: Image.Image, transparent: bool) -> int:
    return (0 if is_gray(image) else IS_COLOR) | (IS_TRANSPARENT if transparent else 0)
