"""A data set that is open for training."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from stylegan_ray.data.decode import Decoder
from stylegan_ray.data.errors import BadImage
from stylegan_ray.data.labels import is_one_hot, label_vectors
from stylegan_ray.data.order import BLOCK_ROWS
from stylegan_ray.data.packed_names import PackedNames
from stylegan_ray.data.pyramid import downscale


class Source(Protocol):
    """Reads image files by number."""

    def read(self, entry: int, at_least: int | None = None) -> bytes:
        """The bytes of a file: all, or enough of them to hold the first `at_least`; raises ValueError or OSError."""
        ...


class Images(Protocol):
    """Reads pixels by number."""

    def read(self, entry: int, name: str, level: int) -> np.ndarray:
        """uint8 [C,H>>level,W>>level]; raises BadImage, or OSError when storage fails."""
        ...


class EncodedImages:
    """Reads pixels by decoding image files."""

    def __init__(self, source: Source, decoder: Decoder) -> None:
        self.source, self.decoder = source, decoder

    def read(self, entry: int, name: str, level: int) -> np.ndarray:
        """uint8 [C,H>>level,W>>level]; raises BadImage, or OSError when storage fails."""
        try:
            content = self.source.read(entry)
        except ValueError as error:
            raise BadImage(name, str(error)) from error
        return downscale(self.decoder(name, content), level)


class Dataset:
    """Images by index, with labels. Pickles small, and opens its files in each process on first use.

    `block_rows` is the number of neighbours that are best read together (data.shuffle=blocks).
    """

    def __init__(
        self,
        path: str,
        images: Images,
        names: PackedNames,
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
        self.path, self.images, self.names, self.rows = path, images, names, rows
        self.label_values, self.label_size = label_values, label_size
        self.resolution, self.num_channels = resolution, num_channels
        self.fingerprint, self.bad = fingerprint, bad
        self.class_names, self.attribution = class_names, attribution
        self.block_rows = block_rows

    @property
    def num_images(self) -> int:
        return len(self.rows)

    def shape(self, level: int = 0) -> tuple[int, int, int]:
        """(C, H, W) of the images at a level."""
        height, width = self.resolution
        return self.num_channels, height >> level, width >> level

    def read(self, index: int, level: int = 0) -> np.ndarray:
        """An image as uint8 [C,H>>level,W>>level]; raises BadImage, which names file and reason."""
        entry = int(self.rows[index])
        if entry in self.bad:
            raise BadImage(self.names[entry], self.bad[entry])
        return self.images.read(entry, self.names[entry], level)

    def labels(self, indices: np.ndarray) -> np.ndarray:
        """Labels float32 [n, label_size]; class numbers become one-hot."""
        indices = np.asarray(indices, dtype=np.int64)
        if self.label_values is None:
            return np.zeros((len(indices), 0), dtype=np.float32)
        return label_vectors(self.label_values[self.rows[indices]], self.label_size)

    def compact_labels(self) -> np.ndarray | None:
        """Labels of all images as files store them: class numbers [n] if they are equivalent, else vectors [n,L]."""
        if self.label_values is None:
            return None
        values = self.label_values[self.rows]
        has_last_class = values.ndim == 2 and values[:, -1].any()  # else the number of classes would be lost
        return values.argmax(axis=1) if has_last_class and is_one_hot(values) else values

    def name(self, index: int) -> str:
        """The name of the image inside the data set."""
        return self.names[int(self.rows[index])]

    def is_bad(self, index: int) -> bool:
        """Whether the image was found unusable when the data set was opened (data.on_bad_image=skip)."""
        return int(self.rows[index]) in self.bad
