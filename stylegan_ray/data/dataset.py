"""A data set that is open for training."""

from __future__ import annotations

from copy import copy
from functools import cached_property
from typing import Protocol

import numpy as np

from stylegan_ray.data.decode import Decoder
from stylegan_ray.data.errors import BadImage, DataError
from stylegan_ray.data.labels import is_one_hot, label_vectors
from stylegan_ray.data.order import BLOCK_ROWS
from stylegan_ray.data.packed_names import PackedNames
from stylegan_ray.data.pyramid import downscale
from stylegan_ray.untrusted import large_turn, printable

MOST_VECTORS = 1 << 24
"""Numbers of one-hot labels that are written as vectors, at most."""
MOST_CLASSES = 12
"""Classes that are listed at the start of a run."""


class Source(Protocol):
    """Reads image files by number."""

    def read(self, entry: int, at_least: int | None = None) -> bytes:
        """The bytes of a file: all, or enough of them to hold the first `at_least`; raises ValueError or OSError."""
        ...


class Images(Protocol):
    """Reads pixels by number."""

    @property
    def decoder(self) -> Decoder:
        """How stored images become those of training."""
        ...

    def read(self, entry: int, name: str, level: int) -> np.ndarray:
        """uint8 [C,H>>level,W>>level]; raises BadImage, or OSError when storage fails."""
        ...


class EncodedImages:
    """Reads pixels by decoding image files."""

    def __init__(self, source: Source, decoder: Decoder) -> None:
        self.source, self.decoder = source, decoder

    def read(self, entry: int, name: str, level: int) -> np.ndarray:
        """uint8 [C,H>>level,W>>level]; raises BadImage, or OSError when storage fails."""
        with large_turn:
            try:
                content = self.source.read(entry)
            except (OSError, DataError):
                raise
            except Exception as error:  # readers of archives raise nearly anything on damaged files
                raise BadImage(name, printable(str(error))) from error
            return downscale(self.decoder(name, content), level)


class Dataset:
    """Images by index, with labels. Pickles small, and opens its files in each process on first use.

    `block_rows` is the number of neighbors that are best read together (data.shuffle=blocks), `label_note` what to say
    about labels that are not used.
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
        label_note: str = "",
    ) -> None:
        self.path, self.images, self.names, self.rows = path, images, names, rows
        self.label_values, self.label_size = label_values, label_size
        self.resolution, self.num_channels = resolution, num_channels
        self.fingerprint, self.bad = fingerprint, bad
        self.class_names, self.attribution = class_names, attribution
        self.block_rows, self.label_note = block_rows, label_note

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

    @property
    def classes(self) -> np.ndarray | None:
        """The class of every image int [n], where each label is one class; else None."""
        if self.label_values is None:
            return None
        values = self.label_values[self.rows]
        if values.ndim == 2:
            values = values[:, : self.label_size]
            return values.argmax(axis=1) if is_one_hot(values) else None
        return values if values.max(initial=0) < self.label_size else None

    @cached_property
    def images_by_class(self) -> list[np.ndarray]:
        """Indices of the usable images of each class that has any; raises DataError where labels are not classes."""
        classes, good = self.check_classes(), self.is_good
        return [np.flatnonzero((classes == number) & good) for number in np.unique(classes[good])]

    def of_class(self, number: int) -> Dataset:
        """The images of one class as a data set of their own."""
        subset = copy(self)
        subset.__dict__.pop("images_by_class", None)
        subset.rows = self.rows[self.check_classes() == number]
        subset.fingerprint = f"{self.fingerprint}-class{number}"
        return subset

    def class_name(self, number: int) -> str:
        """The printable name of a class, or its number where it has none."""
        names = self.class_names or ()
        return printable(names[number], most=60) if number < len(names) else str(number)

    def check_classes(self) -> np.ndarray:
        """The class of every image int [n]; raises DataError where labels are not classes."""
        classes = self.classes
        if classes is None:
            raise DataError(
                f"data.path={self.path}: its labels are not one class each, as data.balance=true and evaluate "
                f"--by-class need them{f' ({self.label_note})' if self.label_note else ''}; leave those out"
            )
        return classes

    def describe_labels(self) -> str:
        """Labels in one line, for people: classes with their number of images; empty where there is nothing to say."""
        classes = self.classes
        if classes is None:
            return self.label_note
        numbers, counts = np.unique(classes[self.is_good], return_counts=True)
        names = [self.class_name(number) for number in numbers.tolist()]
        order = np.argsort(-counts, kind="stable")
        shown = ", ".join(f"{names[i]} {counts[i]}" for i in order[:MOST_CLASSES].tolist())
        more = f" and {len(numbers) - MOST_CLASSES} more, down to {counts.min()}" if len(numbers) > MOST_CLASSES else ""
        empty = self.label_size - len(numbers)
        gaps = (
            f"; labels of size {self.label_size}, of which {empty} classes have no images (--data.renumber_classes "
            "leaves them out)"
            if empty
            else ""
        )
        return f"{len(numbers)} classes (images): {shown}{more}{gaps}"

    def compact_labels(self) -> np.ndarray | None:
        """Labels of all images as files store them: class numbers [n] if they are equivalent, else vectors [n,L]."""
        if self.label_values is None:
            return None
        values = self.label_values[self.rows]
        used = values[self.is_good]
        if values.ndim == 1:  # where the last class has no image, numbers would not tell how many classes there are
            has_last_class = used.max(initial=0) + 1 == self.label_size
            is_small = len(values) * self.label_size <= MOST_VECTORS
            return values if has_last_class or not is_small else label_vectors(values, self.label_size)
        return values.argmax(axis=1) if used[:, -1].any() and is_one_hot(values) else values

    def name(self, index: int) -> str:
        """The name of the image inside the data set."""
        return self.names[int(self.rows[index])]

    @property
    def is_good(self) -> np.ndarray:
        """bool [n]: the images that were not found unusable when the data set was opened (data.on_bad_image=skip)."""
        return ~np.isin(self.rows, list(self.bad))
