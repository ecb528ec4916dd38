"""What a reader of another program's data set is, and raw pixels as image files."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from stylegan_ray.untrusted import open_regular, stored_bytes

FEW_IMAGES, BYTES_PER_IMAGE = 10_000, 16
"""Files hold so many images, and one more for so many bytes: each costs a name."""
MAX_FILE_BYTES = 1 << 28
"""Encoded image files above this size are refused, as are frames between the processes."""

CLASS_BOUND = 1 << 63
"""Class numbers are below this; those with gaps can be renumbered."""
SMALLEST_SIDE = 4
"""Of an image in pixels."""


class ReadError(Exception):
    """A file that cannot be read as the data set that its name promises: what is wrong, and a way out."""


@dataclass(frozen=True)
class Contents:
    """What a data set holds besides its images."""

    names: Sequence[str]
    """A name per image."""
    labels: np.ndarray | None = None
    """Class numbers [n], or None."""
    class_names: Sequence[str] = ()
    notes: Sequence[str] = field(default_factory=list)
    """What the user may not expect, a line each."""


class Reader(Protocol):
    """An open data set."""

    contents: Contents

    def read(self, number: int, name: str) -> bytes:
        """The image file with this number and name; raises ValueError where there is none."""
        ...


def check_images(num: int, height: int, width: int, paths: Sequence[str]) -> None:
    """Raises ReadError for images of few pixels, or more of them than their files can hold."""
    if min(height, width) < SMALLEST_SIDE:
        raise ReadError(f"it says that its images are of {height}x{width} pixels, less than {SMALLEST_SIDE} on a side")
    size = sum(map(stored_size, paths))
    if num > FEW_IMAGES + size // BYTES_PER_IMAGE:
        raise ReadError(f"it says that it holds {num} images in {size} bytes; copy it again from its origin")


def stored_size(path: str) -> int:
    """Bytes of a file without its holes."""
    with open_regular(path) as file:
        return stored_bytes(file.fileno())


def encode_pnm(pixels: np.ndarray) -> bytes:
    """A PPM or PGM file of uint8 [H,W], [H,W,1] or [H,W,3]: pixels behind a header, which every image library reads."""
    height, width, *channels = pixels.shape
    kind = b"P6" if channels == [3] else b"P5"
    return b"%s\n%d %d\n255\n" % (kind, width, height) + np.ascontiguousarray(pixels).tobytes()


def import_optional(module: str) -> Any:
    """A module of the extra [formats]; raises ReadError where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ReadError(
            f"the package {package} is needed to read it and cannot be imported ({error}); "
            f"install it with pip install 'stylegan-ray[formats]'"
        ) from error


def class_numbers(values: Any, num: int, what: str) -> np.ndarray:
    """Labels int64 [n] from whole numbers, also stored as floats; raises ReadError for anything else."""
    labels = np.asarray(values)
    if labels.size != num:
        raise ReadError(
            f"{what} holds {labels.size} labels for {num} images; give files that belong together, a label for each"
        )
    if labels.dtype.kind not in "iuf" or not (np.floor(labels) == labels).all():
        raise ReadError(
            f"{what} is {labels.dtype} of shape {labels.shape}; write whole numbers, the class of each image"
        )
    labels = labels.reshape(-1)
    if num and not 0 <= labels.min() <= labels.max() < CLASS_BOUND:
        raise ReadError(
            f"{what} holds classes from {labels.min()} to {labels.max()}; number them from 0, below {CLASS_BOUND}"
        )
    return labels.astype(np.int64)


def pack_contents(contents: Contents) -> bytes:
    """Contents as JSON."""
    labels = None if contents.labels is None else contents.labels.tolist()
    parts = {"names": contents.names, "labels": labels, "class_names": contents.class_names, "notes": contents.notes}
    return json.dumps({key: value if value is None else list(value) for key, value in parts.items()}).encode()


def unpack_contents(content: bytes) -> Contents:
    """The contents that `pack_contents` packed; raises ValueError for other bytes."""
    try:
        tree = json.loads(content)
        names, class_names, notes = (_texts(tree[key]) for key in ("names", "class_names", "notes"))
        labels = None if tree["labels"] is None else class_numbers(tree["labels"], len(names), "the list of labels")
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError, ReadError) as error:
        raise ValueError(f"no names and labels of images: {type(error).__name__}") from error
    return Contents(names, labels, class_names, notes)


def _texts(values: Any) -> list[str]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise TypeError("no list of texts")
    return values
