"""PNG files: what of them Pillow reads, and whether all pixels are there (PNG specification, third edition)."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from itertools import islice
from struct import unpack_from

from stylegan_ray.data.headers import CHUNK_BYTES, PNG

MAX_CHUNKS = 100_000
"""Chunks that are looked at; what follows them is left to Pillow, which counts its reads."""
MAX_PROFILE = 1 << 20
"""Bytes of a color profile, of which Pillow refuses larger ones."""
XMP = b"XML:com.adobe.xmp\0\0"
"""How the text begins that may hold an orientation: its keyword, and that it is not compressed."""
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Channels by the color type (section 11.2.1)."""
PASSES = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
"""First row and column of each pass of an interlaced image, and the distances of its rows and columns (section 8.1)."""
PIECE = 1 << 14
"""Bytes that are inflated at once, to 16 MiB at most."""


def chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """The kind of each whole chunk, and where its body begins and ends."""
    at = len(PNG)
    while at + 12 <= len(content):
        size, kind = unpack_from(">I4s", content, at)
        at += size + 12
        if at <= len(content):
            yield kind, at - 4 - size, at - 4


def without_texts(content: bytes) -> bytes:
    """A PNG without the texts and other notes that have no effect on its pixels and may hinder Pillow.

    Pillow keeps texts under their keywords beside what it read from other chunks, so that a text named transparency
    replaces the transparent color, and it refuses long ones. Other files are returned as they are. A note with a wrong
    checksum before the pixels is left, since it shows that the file is damaged.
    """
    if not content.startswith(PNG):
        return content
    kept, start, has_pixels = [], 0, False
    for kind, begin, end in islice(chunks(content), MAX_CHUNKS):
        has_pixels |= kind == b"IDAT"
        if _hinders(content, kind, begin, end) and (has_pixels or _is_undamaged(content, begin, end)):
            kept.append(memoryview(content)[start : begin - 8])
            start = end + 4
    return b"".join([*kept, memoryview(content)[start:]]) if kept else content


def _hinders(content: bytes, kind: bytes, begin: int, end: int) -> bool:
    """Whether a chunk is a text, or a note that Pillow refuses although the pixels need it not."""
    if kind == b"iTXt":
        return end - begin > MAX_PROFILE or not content.startswith(XMP, begin)
    if kind == b"iCCP":
        return not _is_profile(content[begin:end])
    return kind in (b"tEXt", b"zTXt") or (kind != b"PLTE" and end - begin < CHUNK_BYTES.get(kind, 0))


def _is_undamaged(content: bytes, begin: int, end: int) -> bool:
    return unpack_from(">I", content, end)[0] == zlib.crc32(memoryview(content)[begin - 4 : end])


def _is_profile(body: bytes) -> bool:
    """Whether the chunk of a color profile is one that Pillow reads: a name, the method 0, and compressed bytes."""
    _, separator, rest = body.partition(b"\0")
    if not separator or not rest.startswith(b"\0"):
        return False
    inflate = zlib.decompressobj()
    try:
        inflate.decompress(rest[1:], MAX_PROFILE)
    except zlib.error:
        return False
    return not inflate.unconsumed_tail


def last_row(content: bytes, height: int) -> int:
    """Which row of a PNG is decoded last; -1 for an interlaced one of a single row, in which pixels come in turns.

    Pillow leaves it zero where the data of the pixels ends early, and says nothing.
    """
    return height - 1 - height % 2 if _is_interlaced(content) else height - 1


def check_size_of_pixels(content: bytes, height: int, width: int) -> None:
    """Raises ValueError for a PNG with less data than the rows of an image of this size have."""
    expected, found, inflate = _num_bytes(content, height, width), 0, zlib.decompressobj()
    for piece in _pieces(content):
        found += len(inflate.decompress(piece))
        if found >= expected:
            return
    raise ValueError(
        f"is cut off before its last pixel: {found} of {expected} bytes of pixels are there; copy or save it again"
    )


def _pieces(content: bytes) -> Iterator[memoryview]:
    """The compressed pixels, PIECE bytes at a time."""
    for kind, begin, end in chunks(content):
        if kind == b"IDAT":
            yield from (memoryview(content)[at : min(at + PIECE, end)] for at in range(begin, end, PIECE))


def _is_interlaced(content: bytes) -> bool:
    return content[28:29] == b"\1"


def _num_bytes(content: bytes, height: int, width: int) -> int:
    """Bytes of the rows of an image of this size before compression, each with the number of its filter."""
    bits = content[24] * CHANNELS[content[25]]
    passes = PASSES if _is_interlaced(content) else ((0, 0, 1, 1),)
    sizes = ((len(range(top, height, down)), len(range(left, width, right))) for top, left, down, right in passes)
    return sum(rows * (1 + (columns * bits + 7) // 8) for rows, columns in sizes if columns)
