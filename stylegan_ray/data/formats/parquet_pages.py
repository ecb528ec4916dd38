"""Codecs and sizes of the pages of Parquet files, as footers and headers of pages state them.

Pages are decoded by the sizes in their headers, of which the footer can claim less. Arrow ends the process where it is
asked for the name of a codec that it does not know.

The format is that of apache/parquet-format, parquet.thrift, in Thrift's compact protocol.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

HEADER_BYTES = (1 << 12, 1 << 24)
"""Read for a page header: so much, and more where its statistics are long."""
MOST_FOOTER_BYTES = 1 << 22
"""Of a footer that is parsed here: what it says can take 64 times as much memory."""
CODECS = range(8)
EXPANSION = {0: 1, 1: 24}
"""How many times its compressed size a page has at most, by the number of its codec: none, Snappy."""
ROW_GROUPS, COLUMNS, CHUNK, CODEC = 4, 1, 3, 4
"""Numbers of fields of a FileMetaData, RowGroup, ColumnChunk and ColumnMetaData."""
UNCOMPRESSED_SIZE, COMPRESSED_SIZE, DATA_PAGE, DATA_PAGE_V2, NUM_VALUES = 2, 3, 5, 8, 1
"""Numbers of fields of a PageHeader, and in a DataPageHeader."""


class Page(NamedTuple):
    """A page of a column."""

    size: int
    """Bytes when it is decompressed."""
    num_values: int


def codecs_of(file: Any, size: int) -> list[list[int]] | None:
    """The number of the codec of each column chunk by row group; None where the footer is too large.

    `size` is that of the file. Raises ValueError for a damaged footer or an unknown codec.
    """
    file.seek(size - 8)
    length = int.from_bytes(file.read(4), "little")
    if length > MOST_FOOTER_BYTES:
        return None
    file.seek(size - 8 - length)
    try:
        fields = _Compact(file.read(length)).struct()
        found = [[chunk[CHUNK][CODEC] for chunk in group[COLUMNS]] for group in fields.get(ROW_GROUPS, [])]
    except (IndexError, KeyError, TypeError) as error:
        raise ValueError("its footer is damaged") from error
    if unknown := {codec for group in found for codec in group if codec not in CODECS}:
        raise ValueError(f"it is compressed by the unknown codec {min(unknown)}; write it again with another")
    return found


def can_be_larger(chunk: Any, codec: int | None, limit: int) -> bool:
    """Whether a column chunk (pyarrow's metadata of it) may take more than `limit` bytes when it is decompressed."""
    return codec not in EXPANSION or chunk.total_compressed_size * EXPANSION[codec] > limit


def pages_of(file: Any, chunk: Any) -> Iterator[Page]:
    """The pages of a column chunk, of which only the headers are read; raises ValueError for damaged ones."""
    at = min(offset for offset in (chunk.dictionary_page_offset, chunk.data_page_offset) if offset is not None)
    end = at + chunk.total_compressed_size
    while at < end:
        fields, size = _read_header(file, at)
        inner = fields.get(DATA_PAGE) or fields.get(DATA_PAGE_V2) or {}
        sizes = [fields.get(UNCOMPRESSED_SIZE), fields.get(COMPRESSED_SIZE), inner.get(NUM_VALUES, 0)]
        if not all(isinstance(number, int) and number >= 0 for number in sizes):
            raise ValueError(f"the page at byte {at} has a damaged header")
        yield Page(sizes[0], sizes[2])
        at += size + sizes[1]


def _read_header(file: Any, at: int) -> tuple[dict[int, Any], int]:
    """The fields of the page header at an offset, and its size."""
    for size in HEADER_BYTES:
        file.seek(at)
        header = _Compact(file.read(size))
        try:
            return header.struct(), header.at
        except IndexError:
            continue
    raise ValueError(f"the page at byte {at} has no whole header")


class _Compact:
    """Reads values of Thrift's compact protocol; raises IndexError at the end of the content."""

    def __init__(self, content: bytes) -> None:
        self.content, self.at = content, 0

    def struct(self) -> dict[int, Any]:
        """Values by the number of their field."""
        fields, number = {}, 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._integer()
            fields[number] = self._value(head & 15)
        return fields

    def _value(self, kind: int) -> Any:
        if kind in (1, 2):  # True and False
            return kind == 1
        if kind == 3:
            return self._byte()
        if kind in (4, 5, 6):  # integers of 16, 32 and 64 bits
            return self._integer()
        if kind in (7, 8):  # a float, and bytes
            size = 8 if kind == 7 else self._unsigned()
            self.at += size
            return None
        if kind in (9, 10):
            return self._list()
        if kind == 12:
            return self.struct()
        raise ValueError("a page header holds a value of an unknown kind")

    def _list(self) -> list[Any]:
        head = self._byte()
        size, kind = head >> 4, head & 15
        if size == 15:
            size = self._unsigned()
        if size > len(self.content) - self.at:  # each element takes a byte
            raise IndexError
        return [self._byte() if kind in (1, 2) else self._value(kind) for _ in range(size)]

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
        raise ValueError("a page header holds a number that is too long")

    def _integer(self) -> int:
        number = self._unsigned()
        return number >> 1 ^ -(number & 1)
