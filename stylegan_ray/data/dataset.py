"""A data set opened for training."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from stylegan_ray.data.decode import Decoder
from stylegan_ray.data.errors import BadImage
from stylegan_ray.data.labels import vectors
from stylegan_ray.data.order import BLOCK_ROWS
from stylegan_ray.data.packed_names import Names
from stylegan_ray.data.pyramid import reduced


class Source(Protocol):
    """Bytes of picture files by number."""

    def read(self, entry: int, at_least: int | None = None) -> bytes: ...


class Pictures(Protocol):
    """Pixels by number; what a data set reads from."""

    def read(self, entry: int, name: str, level: int) -> np.ndarray: ...


class DecodedPictures:
    """Pictures that are decoded from files, whose CRC-32 when the data set was opened stand in `crc`."""

    def __init__(self, source: Source, decoder: Decoder, crc: np.ndarray) -> None:
        self.source, self.decoder, self.crc = source, decoder, crc

    def read(self, entry: int, name: str, level: int) -> np.ndarray:
        """uint8 [C,H>>level,W>>level]; raises BadImage, or OSError when storage fails."""
        return self.decoded(name, self.content(entry, name), level)

    def content(self, entry: int, name: str) -> bytes:
        """The bytes of a picture's file; raises BadImage, or OSError when storage fails."""
        try:
            return self.source.read(entry)
        except ValueError as error:
            raise BadImage(name, str(error)) from error

    def decoded(self, name: str, content: bytes, level: int) -> np.ndarray:
        """uint8 [C,H>>level,W>>level] from the bytes of a file; raises BadImage."""
        return reduced(self.decoder(name, content), level)


class Dataset:
    """Pictures by index, with labels. Pickles small and opens its files in each process when it first reads.

    `block_rows` says how many neighbours are best read together (data.shuffle=blocks).
    """

    def __init__(
        self,
        path: str,
        pictures: Pictures,
        names: Names,
        rows: np.ndarray,
        label_values: np.ndarray | None,
        label_size: int,
        resolution: tuple[int, int],
        num_channels: int,
        fingerprint: str,
        bad: dict[int, str],
        class_names: tuple[str, ...] | None = None,
        attribution: str | None = None,
        block_rows: int = BLOCK_ROWS,
    ) -> None:
        self.path, self.pictures, self.names, self.rows = path, pictures, names, rows
        self.label_values, self.label_size = label_values, label_size
        self.resolution, self.num_channels = resolution, num_channels
        self.fingerprint, self.bad = fingerprint, bad
        self.class_names, self.attribution = class_names, attribution
        self.block_rows = block_rows

    @property
    def num_images(self) -> int:
        return len(self.rows)

    def shape(self, level: int = 0) -> tuple[int, int, int]:
        """(C, H, W) of the pictures at a level."""
        height, width = self.resolution
        return self.num_channels, height >> level, width >> level

    def read(self, index: int, level: int = 0) -> np.ndarray:
        """A picture as uint8 [C,H>>level,W>>level]; raises BadImage naming file and reason."""
        entry = int(self.rows[index])
        if entry in self.bad:
            raise BadImage(self.names[entry], self.bad[entry])
        return self.pictures.read(entry, self.names[entry], level)

    def labels(self, indices: np.ndarray) -> np.ndarray:
        """Labels float32 [n, label_size]; class numbers become one-hot."""
        indices = np.asarray(indices, dtype=np.int64)
        if self.label_values is None:
            return np.zeros((len(indices), 0), dtype=np.float32)
        return vectors(self.label_values[self.rows[indices]], self.label_size)

    def name(self, index: int) -> str:
        """The picture's file name inside the data set."""
        return self.names[int(self.rows[index])]

    def is_bad(self, index: int) -> bool:
        """Whether the picture is known to be unusable since the data set was opened (data.on_bad_image skip)."""
        return int(self.rows[index]) in self.bad
