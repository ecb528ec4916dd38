"""Directories of TIFF files and of EXIF, read before Pillow and libtiff are given them (TIFF 6.0, section 2; BigTIFF).

Pillow makes a Python object of each value of the tags that it looks at, however many they are, and reads pixels where a
file has none. What is refused here is no image that a program writes.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator

STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM*\0", b"II\0*")
"""How files begin that Pillow opens as TIFF, but MM\\0+: it takes a big-endian BigTIFF for a TIFF."""
BIG = b"II+\0"
"""How a BigTIFF begins, whose counts and offsets have 64 bits."""
BYTES_OF_KIND = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
WHOLE = {3: "H", 4: "I", 16: "Q"}
"""Kinds of values that say how pixels are stored, as codes of struct."""
TEXTS = (1, 2, 7)
"""Kinds of values that stay bytes or become one string, whatever their number."""

WIDTH, HEIGHT, BITS, COMPRESSION, WHITE, FILL_ORDER, ORIENTATION = 256, 257, 258, 259, 262, 266, 274
SAMPLES, ROWS, PLANES, TILE_WIDTH, TILE_HEIGHT, EXTRA, SIGN = 277, 278, 284, 322, 323, 338, 339
STRIPS, STRIP_BYTES, TILES, TILE_BYTES = 273, 279, 324, 325
PARTS = frozenset({STRIPS, STRIP_BYTES, TILES, TILE_BYTES})
SINGLE = frozenset(
    {WIDTH, HEIGHT, COMPRESSION, WHITE, FILL_ORDER, ORIENTATION, SAMPLES, ROWS, PLANES, TILE_WIDTH, TILE_HEIGHT}
)
"""Tags of one number each."""
LAYOUT = SINGLE | PARTS | {BITS, EXTRA, SIGN, 320}
"""Tags of whole numbers that say how pixels are stored, with the palette."""
NOTES = frozenset({282, 283, 296, 530, 700, 34675})
"""Other tags of which Pillow converts the values: resolution, subsampling, XMP and color profile."""
RAW, OLD_JPEG, JPEG = 1, 6, 7
"""Compressions."""
RGB, CMYK, YCBCR = 2, 5, 6
"""Photometric interpretations."""

MAX_ENTRIES = 1000
"""Entries of a directory; libtiff reads up to 4096."""
MAX_DIRECTORIES = 1000
"""Directories that are looked at; the data doctor counts as many pages."""
MAX_NOTES, MAX_VALUES, MAX_PARTS, MAX_ALL_VALUES = 16, 1000, 1 << 16, 1 << 20
"""Values of a tag of NOTES or LAYOUT, strips or tiles of an image, and values of all directories that are looked at."""
DAMAGED = "is a damaged or unsupported TIFF; save it again as PNG or JPEG"

Entry = tuple[int, int, int]
"""Values of a tag: their kind, their number, and where they begin."""
STRUCTS = {
    (order, is_big): (struct.Struct(order + count), struct.Struct(order + entry), struct.Struct(order + link))
    for order in "<>"
    for is_big, count, entry, link in ((False, "H", "HHII", "I"), (True, "Q", "HHQQ", "Q"))
}
"""Number of entries, entry and link of a directory, by the order of bytes and whether it is of a BigTIFF."""


class Directory:
    """The entries of one directory, the first one of each tag; of one that is cut off, those that are there."""

    def __init__(self, content: bytes, at: int) -> None:
        self.content, self.order = content, "<" if content.startswith(b"II") else ">"
        self.entries: dict[int, Entry] = {}
        self.repeated: set[int] = set()
        """Tags of several entries: about which of them counts, libtiff and Pillow disagree."""
        head, entry, link = STRUCTS[self.order, content.startswith(BIG)]
        self.is_inside = at + head.size <= len(content)
        """Whether the file has all of it and of its values; else Pillow leaves out entries, and says nothing."""
        self.num_entries = self.following = self.link = 0
        """Where the next directory is, and where the file says so; 0 without one."""
        self.cut = 0
        """Which link of its chain leads to what Pillow should not see."""
        if not self.is_inside:
            return
        (self.num_entries,) = head.unpack_from(content, at)
        at += head.size
        end = at + self.num_entries * entry.size
        if self.num_entries > MAX_ENTRIES:
            return
        num_bytes, reach = 0, end
        for place in range(at, min(end, len(content) - entry.size + 1), entry.size):
            tag, kind, count, value = entry.unpack_from(content, place)
            size = count * BYTES_OF_KIND.get(kind, 0)
            if size <= link.size:
                value = place + entry.size - link.size
            else:
                num_bytes, reach = num_bytes + size, max(reach, value + size)
            if self.entries.setdefault(tag, found := (kind, count, value)) is not found:
                self.repeated.add(tag)
        self.is_inside = max(num_bytes, reach) <= len(content)
        if end + link.size <= len(content):
            self.link = end
            (self.following,) = link.unpack_from(content, end)

    def values(self, tag: int, default: tuple[int, ...] = ()) -> tuple[int, ...]:
        """Whole numbers of a tag; raises ValueError where the file ends before them."""
        kind, count, at = self.entries.get(tag, (0, 0, 0))
        if not count:
            return default
        if kind not in WHOLE or at + count * BYTES_OF_KIND[kind] > len(self.content):
            raise ValueError(DAMAGED)
        return struct.unpack_from(f"{self.order}{count}{WHOLE[kind]}", self.content, at)

    def value(self, tag: int, default: int = 0) -> int:
        return self.values(tag, (default,))[0]

    @property
    def num_samples(self) -> int:
        return self.value(SAMPLES, 1)

    @property
    def is_raw(self) -> bool:
        return self.value(COMPRESSION, RAW) == RAW

    @property
    def num_planes(self) -> int:
        """Parts in which the samples of a pixel are stored."""
        return self.num_samples if self.value(PLANES, 1) == 2 else 1

    @property
    def has_strips(self) -> bool:
        """Whether pixels are stored in strips of rows, not in tiles; libtiff and Pillow disagree about both."""
        has_strips = STRIPS in self.entries
        if has_strips and self.entries.keys() & {TILE_WIDTH, TILE_HEIGHT, TILES, TILE_BYTES}:
            raise ValueError("is a TIFF with both strips and tiles; save it again")
        return has_strips

    def parts(self) -> list[tuple[int, int]]:
        """Where each strip or tile begins, and its number of bytes, which need not be in the file."""
        starts = self.values(STRIPS if self.has_strips else TILES)
        sizes = self.values(STRIP_BYTES if self.has_strips else TILE_BYTES, (1 << 64,) * len(starts))
        if len(sizes) != len(starts):
            raise ValueError(DAMAGED)
        return list(zip(starts, sizes, strict=True))

    def bits(self) -> tuple[int, ...]:
        """Bits of each sample of a pixel; one number may stand for all."""
        found = self.values(BITS, (1,))
        return found * self.num_samples if len(found) == 1 else found


def for_pillow(content: bytes) -> tuple[bytes, Directory | None]:
    """A file for Pillow to open and the directory of its image, or None for one that is no TIFF.

    Raises ValueError for a TIFF that takes Pillow long to open. Later directories, which only the data doctor counts,
    are cut off where they are damaged or do so.
    """
    directory = _first_directory(content)
    if directory is None or not (changes := _changes(directory)):
        return content, directory
    for at, instead in changes:
        content = content[:at] + instead + content[at + len(instead) :]
    directory = _first_directory(content)
    if directory is None or _changes(directory):  # it overlaps what was changed
        raise ValueError(DAMAGED)
    return content, directory


def _changes(directory: Directory) -> list[tuple[int, bytes]]:
    """Where Pillow must find other bytes, and which: a chain that ends, and no planes where a pixel is one sample.

    It takes a sample in a plane for another kind of pixels.
    """
    found = [(directory.cut, bytes(8 if directory.content.startswith(BIG) else 4))] if directory.cut else []
    if directory.num_samples == 1 and directory.value(PLANES, 1) != 1:
        kind, _, at = directory.entries[PLANES]
        found.append((at, struct.pack(directory.order + WHOLE[kind], 1)))
    return found


def _first_directory(content: bytes) -> Directory | None:
    """The directory of the image that is read, after all were checked."""
    if content.startswith(b"MM\0+"):
        raise ValueError(DAMAGED)
    chain = _chain(content) if content.startswith(STARTS) else iter(())
    first = last = next(chain, None)
    if first is None or last is None:
        return None
    num_values = _check_numbers(first)
    if not first.is_inside:
        raise ValueError(DAMAGED)
    for directory in chain:
        try:
            num_values += _check_numbers(directory)
        except ValueError:
            num_values = MAX_ALL_VALUES + 1
        if num_values > MAX_ALL_VALUES:
            first.cut = last.link
            break
        last = directory
    return first


def _chain(content: bytes) -> Iterator[Directory]:
    """The directories of a file, each once."""
    seen, at = set(), _start(content)
    while at and at not in seen and len(seen) < MAX_DIRECTORIES:
        seen.add(at)
        directory = Directory(content, at)
        yield directory
        at = directory.following


def _start(content: bytes) -> int:
    """Where the first directory begins; 0 without one."""
    _, _, link = STRUCTS["<" if content.startswith(b"II") else ">", content.startswith(BIG)]
    return link.unpack_from(content, link.size)[0] if len(content) >= 2 * link.size else 0


def _check_numbers(directory: Directory) -> int:
    """How many values Pillow converts at most; raises ValueError for far too many, and for no whole numbers."""
    if directory.num_entries > MAX_ENTRIES:
        raise ValueError(f"is a TIFF with a directory of more than {MAX_ENTRIES} entries; save it again")
    num_values = 0
    for tag, (kind, count, _) in directory.entries.items():
        if tag not in LAYOUT and tag not in NOTES:
            continue
        if tag in directory.repeated:
            raise ValueError(f"is a TIFF with several entries of tag {tag}; save it again")
        if tag in NOTES and kind in TEXTS:
            continue
        most = 1 if tag in SINGLE else MAX_PARTS if tag in PARTS else MAX_VALUES if tag in LAYOUT else MAX_NOTES
        if count > most:
            raise ValueError(f"is a TIFF with {count} values of tag {tag}, which has {most} at most; save it again")
        if tag in LAYOUT and kind not in WHOLE:
            raise ValueError(f"is a TIFF with values of type {kind} for tag {tag}, not whole numbers; save it again")
        num_values += count
    return num_values


def check_layout(directory: Directory) -> None:
    """Raises ValueError for an image that Pillow reads wrongly, or of which pixels are missing."""
    if directory.value(COMPRESSION, RAW) == OLD_JPEG:  # it need not have strips
        return
    if 2 in directory.values(SIGN) and max(directory.bits()) <= 8:
        raise ValueError("is a TIFF of 8-bit numbers with a sign; convert it to numbers without one (SampleFormat 1)")
    if not _planes_are_read(directory):
        raise ValueError(
            f"is a TIFF with {max(directory.bits())}-bit samples in separate planes (PlanarConfiguration 2) which are "
            "not read; save it with the samples of a pixel side by side (PlanarConfiguration 1), or as PNG"
        )
    has_strips, width, height = directory.has_strips, directory.value(WIDTH), directory.value(HEIGHT)
    rows = min(directory.value(ROWS, height), height) if has_strips else directory.value(TILE_HEIGHT)
    columns = width if has_strips else directory.value(TILE_WIDTH)
    if not rows or not columns:
        raise ValueError(DAMAGED)
    across, down = math.ceil(width / columns), math.ceil(height / rows)
    parts, needed = directory.parts(), across * down * directory.num_planes
    if len(parts) != needed:
        raise ValueError(
            f"is a TIFF with {len(parts)} strips or tiles of pixels, not the {needed} of its size; save it again"
        )
    if not directory.is_raw:
        return
    heights = [rows] * (down - 1) + [height - rows * (down - 1) if has_strips else rows]
    bits = directory.bits() if directory.num_planes > 1 else [sum(directory.bits())]
    sizes = (high * math.ceil(columns * of_pixel / 8) for of_pixel in bits for high in heights for _ in range(across))
    for (_, size), num_bytes in zip(parts, sizes, strict=True):
        if size < num_bytes:
            raise ValueError(f"is cut off: a strip or tile has {size} of {num_bytes} bytes; copy or save it again")


def _planes_are_read(directory: Directory) -> bool:
    """Whether Pillow reads pixels rightly of which the samples are stored in planes."""
    if directory.num_planes == 1:
        return True
    if directory.value(FILL_ORDER, 1) != 1:
        return False
    white, extra = directory.value(WHITE), directory.values(EXTRA)
    if not directory.is_raw:
        return white in (CMYK, YCBCR) or (white == RGB and (bool(extra) or directory.num_samples == 3))
    return (white == RGB and extra in ((), (2,), (999,))) or (white == CMYK and max(directory.bits()) == 8)


def raw_mode(directory: Directory, found: str) -> str:
    """Pillow's name of stored pixels, where it forgets that planes may have 16 bits, or how libtiff orders bytes."""
    if not directory.is_raw:
        return re.sub(r";(16|32)B?([SF])$", r";\1N\2", found)
    if directory.num_planes > 1 and max(directory.bits()) == 16:
        return f"{found};16{'L' if directory.order == '<' else 'B'}"
    return found


def exif_orientation(exif: bytes) -> int | None:
    """The orientation in EXIF, any number; None where there is none, or not one SHORT or LONG."""
    content = exif.removeprefix(b"Exif\0\0").removeprefix(b"Exif\0\0")
    if not content.startswith(STARTS):
        return None
    directory = Directory(content, _start(content))
    kind, count, _ = directory.entries.get(ORIENTATION, (0, 0, 0))
    return directory.value(ORIENTATION) if kind in WHOLE and count == 1 else None
