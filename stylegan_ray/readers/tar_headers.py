"""Headers of tar files whose work and memory are bounded, for Python's tarfile (`tarinfo=BoundedHeader`)."""

from __future__ import annotations

import re
import tarfile
from typing import Any

from stylegan_ray.untrusted import format_bytes

MAX_HEADER_BYTES = 1 << 16
"""Largest header that extends another one, such as a long name; tarfile reads it as a whole."""
LONG_NUMBER = re.compile(rb"[0-9]{256}")
"""In an extended header, on which tarfile would work for a time that grows with the square of its length."""
RECORD = re.compile(rb"([0-9]{1,5}) [^=\n]+=")
"""The beginning of a record of an extended header, which is `length key=value` and a line feed."""
EXTENDED = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
EXTENSIONS = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, *EXTENDED)
TYPE = 156
"""Where the type of a member is in its header."""


class BoundedHeader(tarfile.TarInfo):
    """The header of a member: extensions are of bounded size, and the map of a sparse member is not read.

    Raises tarfile.ReadError. A sparse member is known by `issparse`; its data must not be read.
    """

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> BoundedHeader:
        file = archive.fileobj
        assert file is not None
        at = file.tell()
        block = file.read(tarfile.BLOCKSIZE)
        if block[TYPE : TYPE + 1] in EXTENDED:
            size = cls.frombuf(block, tarfile.ENCODING, "surrogateescape").size
            check_records(file.read(max(size, 0)))
        file.seek(at)
        return super().fromtarfile(archive)  # type: ignore[return-value]

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> BoundedHeader:
        header = super().frombuf(buf, encoding, errors)
        if header.type in EXTENSIONS and header.size > MAX_HEADER_BYTES:
            raise tarfile.ReadError(
                f"a header takes {format_bytes(header.size)}, more than the limit of {format_bytes(MAX_HEADER_BYTES)}"
            )
        return header

    def _mark_sparse(self, member: tarfile.TarInfo, *_: Any) -> None:
        """Replaces what tarfile does for extended headers of sparse members: their maps may be of any size or damaged.

        Where a later tarfile has other names for it, it reads the maps again.
        """
        member.sparse = []  # type: ignore[attr-defined]

    _proc_gnusparse_00 = _proc_gnusparse_01 = _proc_gnusparse_10 = _mark_sparse


def check_records(content: bytes) -> None:
    """Raises ReadError unless an extended header consists of records of their stated lengths, one after the other.

    Others make tarfile read the same bytes again and again. Python 3.11.10 and later check it as well.
    """
    if LONG_NUMBER.search(content):
        raise tarfile.ReadError("an extended header holds a number of more than 255 digits")
    at, end = 0, len(content.rstrip(b"\0"))
    while at < end:
        record = RECORD.match(content, at)
        after = at + int(record[1]) if record else 0
        if record is None or not record.end() < after <= end or content[after - 1] != ord("\n"):
            raise tarfile.ReadError(f"an extended header is damaged at its byte {at}")
        at = after
