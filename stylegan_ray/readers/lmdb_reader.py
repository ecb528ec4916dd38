"""LMDB data sets of encoded images: those of rosinality's stylegan2-pytorch, and those of LSUN.

Rosinality's program stores an image as `<size>-<number, five digits>` once per size, and their number as `length`;
LSUN stores WebP files under the hash of each.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from typing import Any

from stylegan_ray.readers.protocol import MAX_FILE_BYTES, Contents, ReadError, import_optional, stored_size

LENGTH_KEY = b"length"
MAX_DIGITS = 12
ENTRY_BYTES = 8
"""An entry takes at least so many bytes of the file."""
NUMBERED_KEY = re.compile(rb"([1-9]\d{0,4})-(\d{5,12})")


def open_reader(paths: list[str]) -> LMDBReader:
    lmdb = import_optional("lmdb")
    environment = lmdb.open(paths[0], subdir=False, readonly=True, lock=False, create=False, readahead=False)
    return LMDBReader(environment.begin(), most=stored_size(paths[0]) // ENTRY_BYTES)


class LMDBReader:
    """Reads values by key."""

    def __init__(self, transaction: Any, most: int) -> None:
        self.transaction = transaction
        length = transaction.get(LENGTH_KEY)
        found = transaction.cursor().iternext(keys=True, values=False)
        keys = [bytes(key) for key in itertools.islice(found, most + 1)]
        if len(keys) > most:
            raise ReadError("its pages lead to each other, so that it has no end; copy it again from its origin")
        if length is None:
            names = [key.decode("utf-8", "surrogateescape") for key in keys]
            if any("\0" in name for name in names):
                raise ReadError("its keys hold NUL bytes, so it is no LMDB of images of LSUN or rosinality")
            self.contents = Contents(names)
        else:
            self.contents = numbered_contents(keys, length)

    def read(self, number: int, name: str) -> bytes:
        content = self.transaction.get(name.encode("utf-8", "surrogateescape"))
        if content is None:
            raise ValueError("is not in the file, which says that it holds it")
        if len(content) > MAX_FILE_BYTES:
            raise ValueError(f"has {len(content)} bytes, more than the {MAX_FILE_BYTES} allowed")
        return bytes(content)


def numbered_contents(keys: list[bytes], length: bytes) -> Contents:
    """The images of the largest size; the smaller ones are copies of them. Raises ReadError."""
    sizes = Counter(int(match[1]) for key in keys if (match := NUMBERED_KEY.fullmatch(key)))
    is_number = length.isdigit() and len(length) <= MAX_DIGITS
    if not sizes or not is_number or not 0 < int(length) <= max(sizes.values()):
        raise ReadError(
            f"its key `length` is {length[:20]!r}, but it holds {max(sizes.values(), default=0)} images of one size "
            "under keys such as 256-00000; make it again"
        )
    largest = max(sizes)
    smaller = ", ".join(str(size) for size in sorted(sizes) if size != largest)
    notes = [f"Images of size {largest} are read; those of size {smaller} are copies of them"] if smaller else []
    if (left_out := sizes[largest] - int(length)) > 0:
        notes.append(
            f"{left_out} of {sizes[largest]} images are left out: the key `length` says {int(length)}; make the LMDB "
            "again to use them"
        )
    return Contents([f"{largest}-{number:05d}" for number in range(int(length))], notes=notes)
