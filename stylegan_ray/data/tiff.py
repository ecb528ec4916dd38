"""How the first image of a TIFF is stored, read from the entries of its directory (TIFF 6.0, section 2; BigTIFF)."""

from __future__ import annotations

import struct
from collections.abc import Iterator

TILE_WIDTH, TILE_LENGTH = 322, 323
INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}
"""Types of entries that libtiff reads as integers, as codes of struct."""
BIG = 43
"""Version of a BigTIFF, whose counts and offsets have 64 bits."""


def tile_pixels(content: bytes, directory: int) -> int:
    """Pixels of a tile, which is decoded whole whatever the image's size; 0 for strips, which are cut to the image.

    libtiff and Pillow disagree about which of two entries with the same tag counts, so the largest does here.
    """
    found = {TILE_WIDTH: 0, TILE_LENGTH: 0}
    for tag, value in integers(content, directory):
        if tag in found:
            found[tag] = max(found[tag], value)
    return found[TILE_WIDTH] * found[TILE_LENGTH]


def integers(content: bytes, directory: int) -> Iterator[tuple[int, int]]:
    """(tag, value) of the entries with one integer in the directory at an offset."""
    order = "<" if content.startswith(b"II") else ">"
    is_big = struct.unpack_from(f"{order}H", content, 2)[0] == BIG
    count_of_entries, entry = (struct.Struct(order + codes) for codes in (("Q", "HHQQ") if is_big else ("H", "HHII")))
    (count,) = count_of_entries.unpack_from(content, directory)
    first = directory + count_of_entries.size
    for at in range(first, min(first + count * entry.size, len(content) - entry.size + 1), entry.size):
        tag, kind, num_values, _ = entry.unpack_from(content, at)
        if num_values == 1 and kind in INTEGERS:
            value_at = at + (12 if is_big else 8)
            yield tag, struct.unpack_from(order + INTEGERS[kind], content, value_at)[0]
