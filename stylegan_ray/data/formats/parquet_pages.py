"""Footers and page headers of Parquet files, parsed here: sizes, codecs and numbers of rows.

Pages are decoded by the sizes in their headers, of which the footer can claim less. And Arrow, which reads the data,
ends the process where its Python interface to a footer meets an unknown codec or statistics that do not fit (26.0).

The format is that of apache/parquet-format, parquet.thrift, in Thrift's compact protocol.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from operator import attrgetter
from typing import Any, BinaryIO, NamedTuple

from stylegan_ray.untrusted import COPY_AGAIN, BadFileError

MAGIC_BYTES = 4
"""At the beginning and the end of a file."""
MOST_FOOTER_BYTES = 1 << 24
HEADER_BYTES = (1 << 12, 1 << 24)
"""Read for a page header: so much, and more where its statistics are long."""
CODECS = range(8)
EXPANSION = {0: 1, 1: 24}
"""How many times its compressed size a page has at most, by the number of its codec: none, Snappy."""

NUM_ROWS, ROW_GROUPS = 3, 4
COLUMNS, GROUP_BYTES, GROUP_ROWS = 1, 2, 3
CHUNK, PATH, CODEC, CHUNK_VALUES, CHUNK_BYTES, DATA_OFFSET, DICTIONARY_OFFSET = 3, 3, 4, 5, 7, 9, 11
UNCOMPRESSED_SIZE, COMPRESSED_SIZE, DATA_PAGE, DATA_PAGE_V2, NUM_VALUES = 2, 3, 5, 8, 1
"""Numbers of fields of FileMetaData, RowGroup, ColumnChunk with its ColumnMetaData, and PageHeader with its kinds."""

KEEP: Any = object()
Wanted = Mapping[int, Any]
"""Fields of a structure that are kept: KEEP, the fields of a structure, or in a list the fields of its elements."""
CHUNK_FIELDS = dict.fromkeys((PATH, CODEC, CHUNK_VALUES, CHUNK_BYTES, DATA_OFFSET, DICTIONARY_OFFSET), KEEP)
GROUP_FIELDS = {COLUMNS: [{CHUNK: CHUNK_FIELDS}], GROUP_BYTES: KEEP, GROUP_ROWS: KEEP}
FOOTER_FIELDS = {NUM_ROWS: KEEP, ROW_GROUPS: [GROUP_FIELDS]}
PAGE_FIELDS = {
    UNCOMPRESSED_SIZE: KEEP, COMPRESSED_SIZE: KEEP, DATA_PAGE: {NUM_VALUES: KEEP}, DATA_PAGE_V2: {NUM_VALUES: KEEP},
}  # fmt: skip


class Page(NamedTuple):
    """A page of a column."""

    size: int
    """Bytes when it is decompressed."""
    num_values: int


class Chunk(NamedTuple):
    """The values of a column in a row group."""

    path: str
    """The column and the fields in it, such as image.bytes."""
    codec: int
    num_values: int
    size: int
    """Compressed bytes."""
    begin: int
    """The offset of its first page."""

    @property
    def end(self) -> int:
        return self.begin + self.size

    def can_be_larger(self, limit: int) -> bool:
        """Whether it may take more than `limit` bytes when it is decompressed."""
        return self.codec not in EXPANSION or self.size * EXPANSION[self.codec] > limit


class Group(NamedTuple):
    """A row group."""

    num_rows: int
    size: int
    """Bytes without compression, as stated."""
    chunks: list[Chunk]


class Footer(NamedTuple):
    """What is used of a footer."""

    num_rows: int
    groups: list[Group]


def read_footer(file: BinaryIO, size: int) -> Footer:
    """The footer of a file of `size` bytes.

    Raises BadFileError where it is damaged or too large, a codec unknown, or column chunks overlap or leave the file.
    """
    file.seek(size - 8)
    length = int.from_bytes(file.read(4), "little")
    if length > min(MOST_FOOTER_BYTES, size - 8):
        raise BadFileError(
            f"its footer takes {length} bytes, more than the {MOST_FOOTER_BYTES} that are read; write it again with "
            "larger row groups, or as several files"
        )
    file.seek(size - 8 - length)
    try:
        fields = _Compact(file.read(length)).struct(FOOTER_FIELDS)
        groups = [
            Group(_whole(group[GROUP_ROWS]), _whole(group[GROUP_BYTES]), list(map(_chunk, group[COLUMNS])))
            for group in fields.get(ROW_GROUPS, [])
        ]
        footer = Footer(_whole(fields[NUM_ROWS]), groups)
    except (IndexError, KeyError, TypeError, AttributeError) as error:
        raise BadFileError(f"its footer is damaged; {COPY_AGAIN}") from error
    _check_places([chunk for group in groups for chunk in group.chunks if chunk.size], size)
    return footer


def _check_places(chunks: Sequence[Chunk], file_size: int) -> None:
    """Raises BadFileError for chunks that are not within the file, or overlap."""
    ordered = sorted(chunks, key=attrgetter("begin"))
    outside = next((chunk for chunk in ordered if not MAGIC_BYTES <= chunk.begin <= chunk.end <= file_size), None)
    if outside is not None:
        raise BadFileError(
            f"its footer says that a column chunk is at bytes {outside.begin} to {outside.end}, and the file ends at "
            f"{file_size}; {COPY_AGAIN}"
        )
    if shared := next((chunk for chunk, after in pairwise(ordered) if chunk.end > after.begin), None):
        raise BadFileError(
            f"its column chunk at bytes {shared.begin} to {shared.end} overlaps another one, as no program writes it; "
            "write the file again"
        )


def _chunk(fields: Mapping[int, Any]) -> Chunk:
    values = fields[CHUNK]
    if values[CODEC] not in CODECS:
        raise BadFileError(f"it is compressed by the unknown codec {values[CODEC]}; write it again with another")
    begins = [_whole(values[offset]) for offset in (DATA_OFFSET, DICTIONARY_OFFSET) if values.get(offset)]
    path = b".".join(values[PATH]).decode("utf-8", "replace")
    return Chunk(path, values[CODEC], _whole(values[CHUNK_VALUES]), _whole(values[CHUNK_BYTES]), min(begins, default=0))


def _whole(value: Any) -> int:
    if not isinstance(value, int) or value < 0:
        raise TypeError
    return value


def pages_of(file: BinaryIO, chunk: Chunk) -> Iterator[Page]:
    """The pages of a column chunk, of which only the headers are read; raises BadFileError for damaged ones."""
    at, end = chunk.begin, chunk.begin + chunk.size
    while at < end:
        fields, size = _read_header(file, at)
        inner = fields.get(DATA_PAGE) or fields.get(DATA_PAGE_V2) or {}
        try:
            num_values = _whole(inner.get(NUM_VALUES, 0))
            sizes = _whole(fields[UNCOMPRESSED_SIZE]), _whole(fields[COMPRESSED_SIZE])
        except (KeyError, TypeError, AttributeError) as error:
            raise BadFileError(f"the page at byte {at} has a damaged header; {COPY_AGAIN}") from error
        yield Page(sizes[0], num_values)
        at += size + sizes[1]


def _read_header(file: BinaryIO, at: int) -> tuple[dict[int, Any], int]:
    """The fields of the page header at an offset, and its size."""
    for size in HEADER_BYTES:
        file.seek(at)
        header = _Compact(file.read(size))
        try:
            return header.struct(PAGE_FIELDS), header.at
        except IndexError:
            continue
    raise BadFileError(f"the page at byte {at} has no whole header; {COPY_AGAIN}")


class _Compact:
    """Reads values of Thrift's compact protocol; raises IndexError at the end of the content."""

    def __init__(self, content: bytes) -> None:
        self.content, self.at = content, 0

    def struct(self, wanted: Wanted) -> dict[int, Any]:
        """The wanted fields by their numbers."""
        fields, number = {}, 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._integer()
            value = self._value(head & 15, wanted.get(number))
            if number in wanted:
                fields[number] = value
        return fields

    def _value(self, kind: int, wanted: Any) -> Any:
        if kind in (1, 2):  # True and False
            return kind == 1
        if kind == 3:
            return self._byte()
        if kind in (4, 5, 6):  # integers of 16, 32 and 64 bits
            return self._integer()
        if kind in (7, 8):  # a float, and bytes
            size = 8 if kind == 7 else self._unsigned()
            self.at += size
            return self.content[self.at - size : self.at] if wanted is KEEP else None
        if kind in (9, 10):
            return self._list(wanted)
        if kind == 12:
            return self.struct(wanted if isinstance(wanted, dict) else {})
        raise BadFileError(f"it holds a value of an unknown kind; {COPY_AGAIN}")

    def _list(self, wanted: Any) -> list[Any] | None:
        head = self._byte()
        size, kind = head >> 4, head & 15
        size = self._unsigned() if size == 15 else size
        if size > len(self.content) - self.at:  # an element takes a byte
            raise IndexError
        of_element = wanted[0] if isinstance(wanted, list) else wanted
        found = (self._byte() if kind in (1, 2) else self._value(kind, of_element) for _ in range(size))
        if wanted is not None:
            return list(found)
        for _ in found:
            pass
        return None

    def _byte(self) -> int:
        self.at += 1
        return self.content[self.at - 1]

    def _unsigned(self) -> int:
        number = shift = 0
        while shift < 70:
            byte = self._byte()
            number |= (byte & 127) << shift
            if byte < 128:
                return number
            shift += 7
        raise BadFileError(f"it holds a number that is too long; {COPY_AGAIN}")

    def _integer(self) -> int:
        number = self._unsigned()
        return number >> 1 ^ -(number & 1)
