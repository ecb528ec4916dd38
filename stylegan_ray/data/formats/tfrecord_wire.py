"""The TFRecord files of ProGAN and StyleGAN as bytes, without TensorFlow: framing, checksums, examples.

A record is its length (uint64), the masked CRC-32C of that, the payload, and its masked CRC-32C. A payload is a
tf.train.Example with `shape` (int64 [3]: C,H,W) and `data` (raw uint8).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import crc32c
import numpy as np

from stylegan_ray.data.pyramid import pyramid
from stylegan_ray.untrusted import short_repr

HEADER_BYTES, FOOTER_BYTES = 12, 4
MASK_DELTA = 0xA282EAD8
"""TFRecord stores CRCs rotated and shifted by this, since payloads may contain CRCs themselves."""
VARINT, BYTES = 0, 2
MAX_SIDE, MAX_NUMBERS = 1 << 16, 16
"""Largest size of an image, and most numbers of a list that is to be a shape."""
MAX_FIELDS = 1000
"""Fields of an example that are looked at; those of StyleGAN have about ten."""
ORDER_SEED = 123
"""The original exporter shuffles with this seed."""

Span = tuple[int, int]
"""Begin and end of a part of a payload."""


class Frame(NamedTuple):
    """Position of a payload in a piece of a file."""

    start: int
    size: int


class Example(NamedTuple):
    shape: tuple[int, ...]
    data_start: int
    """Position of the pixels in the payload."""
    data_size: int


def find_frames(piece: bytes, file_offset: int, file_size: int, file_name: str) -> tuple[list[Frame], int]:
    """The complete records in a piece of a file, and how many bytes they take.

    Raises ValueError where a length does not match its CRC, or the file ends inside a record.
    """
    found, at = [], 0
    while at + HEADER_BYTES <= len(piece):
        (size,) = struct.unpack_from("<Q", piece, at)
        if piece[at : at + HEADER_BYTES] != _length_header(size):
            raise ValueError(
                f"{file_name} is damaged at byte {file_offset + at}: the length of a record does not match its CRC"
            )
        needed = HEADER_BYTES + size + FOOTER_BYTES
        if file_offset + at + needed > file_size:
            _raise_truncated(file_name, file_offset + at, needed, file_size)
        if at + needed > len(piece):
            break
        found.append(Frame(at + HEADER_BYTES, size))
        at += needed
    if file_offset + len(piece) == file_size and at + HEADER_BYTES > len(piece) > at:
        _raise_truncated(file_name, file_offset + at, HEADER_BYTES, file_size)
    return found, at


def record_bytes(piece: bytes) -> int:
    """Size of the record at the beginning of a piece, with its frame."""
    return HEADER_BYTES + struct.unpack_from("<Q", piece)[0] + FOOTER_BYTES


def masked_crc32c(content: bytes) -> int:
    """CRC-32C (RFC 3720, appendix B.4) in the form that TFRecord files store."""
    crc = crc32c.crc32c(content)
    return ((crc >> 15 | crc << 17) + MASK_DELTA) & 0xFFFFFFFF


def bad_payloads(piece: bytes, some_frames: Sequence[Frame]) -> set[int]:
    """The numbers of the frames whose payload does not match its CRC."""
    return {
        i
        for i, (start, size) in enumerate(some_frames)
        if masked_crc32c(piece[start : start + size]) != struct.unpack_from("<I", piece, start + size)[0]
    }


def parse_example(payload: memoryview) -> Example:
    """Shape and pixels of a payload; raises ValueError when it is not an example with both."""
    shape, data, message = None, None, _Message(payload)
    for features in message.parts((0, len(payload)), 1):
        for entry in message.parts(features, 1):
            keys, values = message.parts(entry, 1), message.parts(entry, 2)
            if not keys or not values:
                continue
            key, feature = payload[slice(*keys[0])], values[0]
            if key == b"shape":
                shape = tuple(number for part in message.parts(feature, 3) for number in message.int64s(part))
            elif key == b"data":
                found = [part for value in message.parts(feature, 1) for part in message.parts(value, 1)]
                data = found[0] if found else None
    if shape is None or data is None:
        raise ValueError("is not an example with `shape` and `data`")
    if len(shape) != 3 or not all(1 <= size <= MAX_SIDE for size in shape):
        raise ValueError(f"is of shape {short_repr(shape)}, not of three sizes from 1 to {MAX_SIDE}")
    if data[1] - data[0] != math.prod(shape):
        raise ValueError(f"holds {data[1] - data[0]} bytes for an image of shape {shape}")
    return Example(shape, data[0], data[1] - data[0])


def encode_example(pixels: np.ndarray) -> bytes:
    """The payload of an image uint8 [C,H,W], byte for byte as the original exporter writes it."""
    assert pixels.dtype == np.uint8 and pixels.ndim == 3
    shape = _field(3, _field(1, b"".join(map(_varint, pixels.shape))))
    data = _field(1, _field(1, np.ascontiguousarray(pixels).tobytes()))
    features = [(b"shape", shape), (b"data", data)]
    return _field(1, b"".join(_field(1, _field(1, key) + _field(2, value)) for key, value in features))


def frame_records(payloads: Sequence[bytes]) -> bytes:
    """Records with these payloads, one after the other."""
    return b"".join(
        part
        for payload in payloads
        for part in (_length_header(len(payload)), payload, struct.pack("<I", masked_crc32c(payload)))
    )


def image_levels(pixels: np.ndarray) -> list[np.ndarray]:
    """Images uint8 [...,H,W] and their smaller versions as the exporter writes them, down to a side of 4."""
    height, width = pixels.shape[-2:]
    num_levels = 1
    while height % 2 == 0 and width % 2 == 0 and max(height, width) >= 8:
        height, width, num_levels = height // 2, width // 2, num_levels + 1
    return pyramid(pixels, num_levels)


def export_order(num_images: int) -> np.ndarray:
    """The source image of each record, in the order of the original exporter."""
    order = np.arange(num_images)
    np.random.RandomState(ORDER_SEED).shuffle(order)
    return order


def file_name(name: str, side: int) -> str:
    """The name of the file of images whose larger side is `side`."""
    return f"{name}-r{side.bit_length() - 1:02d}.tfrecords"


@lru_cache(maxsize=1024)  # the records of a file have few different lengths
def _length_header(size: int) -> bytes:
    length = struct.pack("<Q", size)
    return length + struct.pack("<I", masked_crc32c(length))


def _raise_truncated(file_name: str, offset: int, needed: int, file_size: int) -> None:
    raise ValueError(
        f"{file_name} is truncated: the record at byte {offset} needs {needed} bytes, but the file ends at {file_size}"
    )


# The part of the protobuf wire format that examples use.


class _Message:
    """Reads messages of a payload, of which MAX_FIELDS fields may be looked at."""

    def __init__(self, payload: memoryview) -> None:
        self.payload, self.num_fields = payload, 0

    def fields(self, span: Span) -> Iterator[tuple[int, int | Span]]:
        """The fields of a message: number, and the value or its span."""
        at, end = span
        while at < end:
            self.num_fields += 1
            if self.num_fields > MAX_FIELDS:
                raise ValueError(f"is not an example of an image: it has more than {MAX_FIELDS} fields")
            tag, at = _read_varint(self.payload, at)
            number, at = _read_varint(self.payload, at)
            if tag & 7 == BYTES:
                yield tag >> 3, (at, at + number)
                at += number
            elif tag & 7 == VARINT:
                yield tag >> 3, number
            else:
                raise ValueError("is not an example: a field of unknown wire type")
            if at > end:
                raise ValueError("is not an example: a field extends beyond its end")

    def parts(self, span: Span, field: int) -> list[Span]:
        """The spans of the values of a length-delimited field of a message."""
        return [value for number, value in self.fields(span) if number == field and isinstance(value, tuple)]

    def int64s(self, span: Span) -> list[int]:
        """The numbers of an Int64List, packed or one by one."""
        numbers: list[int] = []
        for _, value in self.fields(span):
            if isinstance(value, int):
                numbers.append(value)
                continue
            at, end = value
            while at < end:
                number, at = _read_varint(self.payload, at)
                numbers.append(number)
                if len(numbers) > MAX_NUMBERS:
                    raise ValueError("is not an example: its `shape` is not three numbers")
        return numbers


def _read_varint(payload: memoryview, at: int) -> tuple[int, int]:
    """A number below 2**63 in at most ten bytes, and the position after it."""
    number = 0
    for shift in range(0, 70, 7):
        if at >= len(payload):
            raise ValueError("is not an example: a number is truncated")
        number |= (payload[at] & 0x7F) << shift
        at += 1
        if payload[at - 1] < 0x80:
            if number >= 1 << 63:
                break
            return number, at
    raise ValueError("is not an example: a number is not below 2**63")


def _varint(number: int) -> bytes:
    head = bytearray()
    while number >= 0x80:
        head.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*head, number])


def _field(number: int, content: bytes) -> bytes:
    """A length-delimited field."""
    return _varint(number << 3 | BYTES) + _varint(len(content)) + content
