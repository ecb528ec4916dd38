"""MNIST's idx files: images uint8 [N,H,W] and labels uint8 [N], plain or compressed by gzip.

The format: two zero bytes, 8 for uint8, the number of dimensions, each dimension as a big-endian uint32, the values
(Y. LeCun, C. Cortes, C. Burges: The MNIST database of handwritten digits).
"""

from __future__ import annotations

import gzip
import math
import os
import struct

import numpy as np

from stylegan_ray.readers.protocol import Contents, ReadError, check_images, class_numbers, encode_pnm

UINT8 = 8
MAX_BYTES = 1 << 33
PADDED = {28: 32}
"""Sides that are padded with zeros: 28 px allow no power of two."""


def open_reader(paths: list[str]) -> IDXReader:
    images = read_idx(paths[0], num_dimensions=3)
    num, height, width = images.shape
    check_images(num, height, width, paths)
    labels = (
        class_numbers(read_idx(paths[1], num_dimensions=1), len(images), "the file of labels") if paths[1:] else None
    )
    return IDXReader(images, labels)


class IDXReader:
    """Images in memory."""

    def __init__(self, images: np.ndarray, labels: np.ndarray | None) -> None:
        self.images = images
        self.margins = [(PADDED.get(side, side) - side) // 2 for side in images.shape[1:]]
        self.contents = Contents([f"{number:05d}" for number in range(len(images))], labels)

    def read(self, number: int, name: str) -> bytes:
        return encode_pnm(np.pad(self.images[number], [(margin, margin) for margin in self.margins]))


def read_idx(path: str, num_dimensions: int) -> np.ndarray:
    """The array of an idx file; raises ReadError when it is no array of bytes with so many dimensions."""
    head_bytes = 4 + 4 * num_dimensions
    with gzip.open(path) if path.endswith(".gz") else open(path, "rb") as file:
        head = file.read(head_bytes)
        if len(head) < head_bytes or head[:4] != bytes([0, 0, UINT8, num_dimensions]):
            raise ReadError(f"{path} does not begin as an idx file of bytes with {num_dimensions} dimensions")
        shape = struct.unpack(f">{num_dimensions}I", head[4:])
        size = math.prod(shape)
        if not 0 < size <= MAX_BYTES:
            raise ReadError(
                f"{path} says that it holds an array of shape {shape}, and 1 to {MAX_BYTES} bytes are read; "
                "copy it again from its origin"
            )
        is_whole = path.endswith(".gz") or os.path.getsize(path) == head_bytes + size
        content = file.read(size + 1) if is_whole else b""
    if len(content) != size:
        raise ReadError(f"{path} should hold {size} values and does not; it may be incomplete, so copy it again")
    return np.frombuffer(content, np.uint8).reshape(shape)
