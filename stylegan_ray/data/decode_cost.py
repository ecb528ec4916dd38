"""What decoding an image file costs: refuses, before it is decoded, what takes very long for its size."""

from __future__ import annotations

import io
import math
import re

import numpy as np
from PIL import Image

MAX_READS = 500_000
"""Pieces of a file that Pillow's readers ask for, in the header and in what follows: each takes them microseconds."""
MAX_REPEATED = 100
"""Parts of a header that are each copied or inflated as a whole; a file has one of them, or one for each 64 kB."""
REPEATED = (
    (b"\xff\xd8", b"Exif\0\0", "EXIF segments"),
    (b"\xff\xd8", b"Photoshop 3.0\0", "Photoshop segments"),
    (b"\x89PNG", b"iCCP", "color profiles"),
)
"""How files begin that have such parts, how the parts do, and what they are."""
MAX_SCANS = 100
"""Scans of a JPEG: progressive files have about ten, and each costs a pass over the whole image."""
MAX_SCAN_PIXELS, PIXELS_PER_BYTE = 4_000_000_000, 32
"""Pixels of all scans of a JPEG, about a nanosecond each; a byte of coefficients takes as long as so many pixels."""
NEXT_MARKER = re.compile(rb"\xff[^\x00\x01\xff\xd0-\xd8]")
"""A marker with a length behind it, or the end; others are part of the data, or have none (T.81, table B.1)."""
START_OF_SCAN, END_OF_IMAGE = 0xDA, 0xD9
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
    """Raises ValueError for more than MAX_REPEATED parts that Pillow joins or inflates one after the other."""
    for start, part, what in REPEATED:
        if content.startswith(start) and content.count(part) > MAX_REPEATED:
            raise ValueError(f"has more than {MAX_REPEATED} {what}, which take very long to read; save it again")


def check_scans(content: bytes, num_pixels: int = 0) -> None:
    """Raises ValueError for a JPEG of too many scans, of so many pixels each (ITU-T T.81, section B.2)."""
    of_bytes = PIXELS_PER_BYTE * min(len(content), 8 * num_pixels)
    most = min(MAX_SCANS, max((MAX_SCAN_PIXELS - of_bytes) // max(num_pixels, 1), 1))
    if not content.startswith(b"\xff\xd8") or content.count(b"\xff\xda") <= most:
        return
    at, num_scans = 2, 0
    while (found := NEXT_MARKER.search(content, at)) is not None and num_scans <= most:
        marker, at = content[found.end() - 1], found.end()
        if marker == END_OF_IMAGE:
            break
        num_scans += marker == START_OF_SCAN
        at += max(int.from_bytes(content[at : at + 2], "big"), 2)
    if num_scans > most:
        of_size = f" of {num_pixels} pixels" if most < MAX_SCANS else ""
        raise ValueError(
            f"is a JPEG of more than {most} scans{of_size}, which takes very long to decode; save it again"
        )


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


def load_scaled_pnm(image: Image.Image, content: bytes) -> Image.Image:
    """The decoded image of such a file, as Pillow's decoder makes it, which is written in Python and slow."""
    (_, _, offset, (_, most)), shape = image.tile[0], (image.height, image.width, len(image.getbands()))  # type: ignore[attr-defined]
    if len(content) < offset + math.prod(shape) * (1 + (most > 0xFF)):
        raise ValueError("is cut off before its last pixel; copy it again")
    values = np.frombuffer(content, ">u2" if most > 0xFF else "u1", math.prod(shape), offset)
    top, kind = (0xFFFF, np.int32) if image.mode == "I" else (0xFF, np.uint8)
    table = np.rint(np.arange(0x10000 if most > 0xFF else 0x100) / most * top).clip(0, top).astype(kind)
    return Image.fromarray(table[values].reshape(shape[:2] if shape[2] == 1 else shape))
