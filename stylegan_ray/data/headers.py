"""Headers of plain PNG and JPEG files, read without Pillow: a data set of small files is opened five times as fast.

Only what Pillow opens without doubt is read here. For everything else, damage of any kind included, the answer is None,
and Pillow decides.
"""

from __future__ import annotations

import zlib
from struct import unpack_from
from typing import NamedTuple

from stylegan_ray.data.decode_cost import check_scans

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
PNG_COLORS = {0: "L", 2: "RGB", 3: "P", 4: "LA", 6: "RGBA"}
"""Pillow's mode by the color type of a PNG (PNG specification, 11.2.1)."""
CHUNK_BYTES = {b"PLTE": 3, b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"pHYs": 9, b"tIME": 7, b"sBIT": 1, b"bKGD": 1}
"""Chunks that may stand before the pixels, and their least size. None of them changes the mode or turns the image."""
SOF0, SOF2, DHT, SOI, SOS, DQT, DRI, COM = 0xC0, 0xC2, 0xC4, 0xD8, 0xDA, 0xDB, 0xDD, 0xFE
APP0, APP2, APP14 = 0xE0, 0xE2, 0xEE
STARTS = {APP0: (b"JFIF\0", 14), APP2: (b"ICC_PROFILE\0\1\1", 14), APP14: (b"Adobe", 12)}
"""How application segments begin that may stand before the pixels, and their least size. EXIF can turn an image."""


class Header(NamedTuple):
    """What an image file says about its image."""

    height: int
    width: int
    mode: str
    """L, LA, P, RGB or RGBA, as Pillow names them."""


def plain_header(content: bytes) -> Header | None:
    """The header of a PNG or JPEG from the first bytes of a file; None where Pillow has to look.

    Raises ValueError for a JPEG of too many scans.
    """
    if content.startswith(PNG):
        return _png_header(content)
    if content.startswith(JPEG):
        check_scans(content)
        return _jpeg_header(content)
    return None


def _png_header(content: bytes) -> Header | None:
    """8 bits a channel, or a palette of up to 8; every chunk before the pixels is of a known kind and undamaged."""
    if content[8:16] != b"\0\0\0\rIHDR" or len(content) < 33:
        return None
    width, height, bits, color, method, filtering, interlace, crc = unpack_from(">IIBBBBBI", content, 16)
    if crc != zlib.crc32(content[12:29]) or not width or not height or method or filtering or interlace > 1:
        return None
    if color not in PNG_COLORS or (bits != 8 and (color != 3 or bits not in (1, 2, 4))):
        return None
    at = 33
    while at + 8 <= len(content):
        size, kind = unpack_from(">I4s", content, at)
        if kind == b"IDAT":
            return Header(height, width, PNG_COLORS[color])
        end = at + 8 + size
        if end + 4 > len(content) or not _is_plain_chunk(kind, size):
            return None
        if unpack_from(">I", content, end)[0] != zlib.crc32(content[at + 4 : end]):
            return None
        at = end + 4
    return None


def _is_plain_chunk(kind: bytes, size: int) -> bool:
    """Whether a chunk is harmless."""
    return kind == b"tEXt" or size >= CHUNK_BYTES.get(kind, 1 << 31)


def _jpeg_header(content: bytes) -> Header | None:
    """One frame of 8 bits and one or three components; the first scan begins within the content."""
    header, profiles, at = None, 0, 2
    while at + 4 <= len(content):
        prefix, marker, size = unpack_from(">BBH", content, at)
        start, end = at + 4, at + 2 + size
        if prefix != 0xFF or size < 2 or end > len(content):
            return None
        if marker == SOS:
            return header
        if marker in STARTS:
            begin, least = STARTS[marker]
            profiles += marker == APP2
            if profiles > 1 or end - start < least or not content.startswith(begin, start):
                return None
        elif SOF0 <= marker <= SOF2:
            if header is not None or (header := _frame(content[start:end])) is None:
                return None
        elif marker == DQT:
            if not _holds_tables(content, start, end):
                return None
        elif marker not in (DHT, DRI, COM):
            return None
        at = end
    return None


def _frame(segment: bytes) -> Header | None:
    """Size and mode from a start of frame (ITU-T T.81, B.2.2)."""
    if len(segment) < 6:
        return None
    bits, height, width, components = unpack_from(">BHHB", segment)
    is_plain = bits == 8 and height and width and components in (1, 3) and len(segment) == 6 + 3 * components
    return Header(height, width, "L" if components == 1 else "RGB") if is_plain else None


def _holds_tables(content: bytes, at: int, end: int) -> bool:
    """Whether a segment holds whole quantization tables (ITU-T T.81, B.2.4.1)."""
    while at < end:
        at += 65 if content[at] < 16 else 129
    return at == end
