"""What decoding an image file costs: refuses, before it is decoded, what takes very long for its size."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from struct import unpack_from
from typing import NamedTuple

import numpy as np
from PIL import Image

MAX_READS = 500_000
"""Pieces of a file that Pillow's readers ask for, in the header and in what follows: each takes them microseconds."""
REPEATED = (
    (b"\xff\xd8", b"Exif\0\0", "EXIF segments", 16),
    (b"\xff\xd8", b"Photoshop 3.0\0", "Photoshop segments", 100),
    (b"\x89PNG", b"iCCP", "color profiles", 100),
)
"""Parts of a header that are each copied, inflated or parsed as a whole; a file has one of them, or one for each 64 kB.

How files begin that have such parts, how the parts do, what they are, and how many are read. Pillow looks for a
resolution in the EXIF of a JPEG, and a megabyte can hold 131,072 of them.
"""
MAX_SCANS = 100
"""Scans of a JPEG: progressive files have about ten, and each costs a pass over the whole image."""
MAX_SCAN_PIXELS, PIXELS_PER_BYTE = 4_000_000_000, 32
"""Pixels of all scans of a JPEG, about a nanosecond each; a byte of coefficients takes as long as so many pixels."""
NEXT_MARKER = re.compile(rb"\xff[^\x00\x01\xff\xd0-\xd8]")
"""A marker with a length behind it, or the end; others are part of the data, or have none (T.81, table B.1)."""
START_OF_SCAN, END_OF_IMAGE, STARTS_OF_FRAME = 0xDA, 0xD9, (0xC0, 0xC1, 0xC2, 0xC9, 0xCA)
MAX_SLOW_VALUES = 3 << 20
"""Values of the largest image in an encoding that Pillow decodes in Python, a microsecond each; as many more reads."""
MAX_COMMENTS = 100
"""Comments in a PNM of decimal numbers; each costs a copy of what follows it."""


class CountedReads(io.BytesIO):
    """The bytes of an image file, of which a bounded number of pieces can be read."""

    left = MAX_READS

    def read(self, size: int | None = -1, /) -> bytes:
        self.left -= 1
        if self.left < 0:
            raise ValueError("consists of far too many small parts, which take very long to read; save it again")
        return super().read(size)


def check_repeated(content: bytes) -> None:
    """Raises ValueError for too many parts that Pillow joins or inflates one after the other."""
    for start, part, what, most in REPEATED:
        if content.startswith(start) and content.count(part) > most:
            raise ValueError(f"has more than {most} {what}, which take very long to read; save it again")


def check_scans(content: bytes, num_pixels: int = 0) -> None:
    """Raises ValueError for a JPEG of too many scans, of so many pixels each (ITU-T T.81, section B.2)."""
    of_bytes = PIXELS_PER_BYTE * min(len(content), 8 * num_pixels)
    most = min(MAX_SCANS, max((MAX_SCAN_PIXELS - of_bytes) // max(num_pixels, 1), 1))
    if not content.startswith(b"\xff\xd8") or content.count(b"\xff\xda") <= most:
        return
    if _count_scans(content, 2, len(content), most).number > most:
        of_size = f" of {num_pixels} pixels" if most < MAX_SCANS else ""
        raise ValueError(
            f"is a JPEG of more than {most} scans{of_size}, which takes very long to decode; save it again"
        )


class Scans(NamedTuple):
    """What is found in a JPEG between its tables."""

    number: int
    num_pixels: int
    """Of the largest frame."""
    has_end: bool


def _count_scans(content: bytes, at: int, end: int, most: int) -> Scans:
    """Scans of a JPEG in a part of a file, counted up to one more than `most`."""
    num_scans = num_pixels = 0
    while num_scans <= most and (found := NEXT_MARKER.search(content, at, end)) is not None:
        marker, at = content[found.end() - 1], found.end()
        if marker == END_OF_IMAGE:
            return Scans(num_scans, num_pixels, True)
        if marker in STARTS_OF_FRAME and at + 7 <= end:
            num_pixels = max(num_pixels, math.prod(unpack_from(">HH", content, at + 3)))
        num_scans += marker == START_OF_SCAN
        at += max(int.from_bytes(content[at : at + 2], "big"), 2)
    return Scans(num_scans, num_pixels, False)


def check_scans_of_parts(content: bytes, parts: Sequence[tuple[int, int]], num_pixels: int) -> None:
    """The same for a TIFF of JPEGs, from where each begins and its size; several may be one and the same.

    Raises ValueError too where one that is in the content has no end: libjpeg makes the rest gray.
    """
    if sum(max(min(start + size, len(content)) - start, 0) for start, size in set(parts)) > len(content):
        raise ValueError("is a TIFF of JPEGs that overlap; save it again")
    scans = {part: _count_scans(content, part[0], min(sum(part), len(content)), MAX_SCANS) for part in set(parts)}
    each, cost = num_pixels // len(parts), 0
    for part in parts:
        pixels = max(scans[part].num_pixels, each)
        cost += scans[part].number * pixels + PIXELS_PER_BYTE * min(part[1], len(content), 8 * pixels)
    most, number = max(of.number for of in scans.values()), sum(scans[part].number for part in parts)
    if most > MAX_SCANS or (cost > MAX_SCAN_PIXELS and number > len(parts)):
        raise ValueError(
            f"is a TIFF of JPEGs with {number} scans of {num_pixels // len(parts)} pixels, which take very long to "
            "decode; save it again"
        )
    if any(not scans[part].has_end and sum(part) <= len(content) for part in scans):
        raise ValueError("is a TIFF with a JPEG that is cut off; copy or save it again")


def check_comments(content: bytes) -> None:
    """Raises ValueError for a PNM of decimal numbers with more than MAX_COMMENTS comments."""
    if content.startswith((b"P1", b"P2", b"P3")) and content.count(b"#") > MAX_COMMENTS:
        raise ValueError(f"is a PNM of more than {MAX_COMMENTS} comments, which takes very long to decode; save as PNG")


def check_speed(image: Image.Image) -> int:
    """Values of an image of which Pillow's decoder is written in Python, else 0; raises ValueError for a large one."""
    if not any(tile[0] in Image.DECODERS for tile in getattr(image, "tile", ())) or is_scaled_pnm(image):
        return 0
    num_values = image.width * image.height * len(image.getbands())
    if num_values > MAX_SLOW_VALUES:
        raise ValueError(
            f"is {image.height}x{image.width} pixels with {num_values} values, more than the {MAX_SLOW_VALUES} that "
            f"are read of {image.format} in this encoding, since they take very long to decode; save it as PNG"
        )
    return num_values


def is_scaled_pnm(image: Image.Image) -> bool:
    """Whether an image of which the header is read is a binary PNM with another largest value than 255 or 65535."""
    return any(tile[0] == "ppm" for tile in getattr(image, "tile", ()))


def has_deep_values(content: bytes) -> bool:
    """Whether a PNM may have values above 255."""
    with Image.open(io.BytesIO(content), formats=["PPM"]) as image:
        arguments = image.tile[0][3]  # type: ignore[attr-defined]
    return isinstance(arguments, tuple) and isinstance(arguments[-1], int) and arguments[-1] > 0xFF


def load_scaled_pnm(image: Image.Image, content: bytes) -> Image.Image:
    """The decoded image of such a file, as Pillow's decoder makes it, which is written in Python and slow."""
    (_, _, offset, (_, most)), shape = image.tile[0], (image.height, image.width, len(image.getbands()))  # type: ignore[attr-defined]
    if len(content) < offset + math.prod(shape) * (1 + (most > 0xFF)):
        raise ValueError("is cut off before its last pixel; copy it again")
    values = np.frombuffer(content, ">u2" if most > 0xFF else "u1", math.prod(shape), offset)
    top, kind = (0xFFFF, np.int32) if image.mode == "I" else (0xFF, np.uint8)
    table = np.rint(np.arange(0x10000 if most > 0xFF else 0x100) / most * top).clip(0, top).astype(kind)
    return Image.fromarray(table[values].reshape(shape[:2] if shape[2] == 1 else shape))
