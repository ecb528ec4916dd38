"""HDF5 files with `imgs` uint8 [N,C,H,W] or [N,H,W,C] and `labels` [N], as StudioGAN writes them."""

from __future__ import annotations

import math
import reprlib
from typing import Any

import numpy as np

from stylegan_ray.readers.protocol import Contents, ReadError, check_images, class_numbers, encode_pnm, import_optional

IMAGES, LABELS = "imgs", "labels"
MAY_BE_LABELS = frozenset("label labels target targets class classes y".split())
CHUNK_CACHE_BYTES = 1 << 28
"""Decompressed chunks in memory: StudioGAN's hold 500 images each."""


def open_reader(paths: list[str]) -> HDF5Reader:
    h5py = import_optional("h5py")
    file = h5py.File(paths[0], "r", rdcc_nbytes=CHUNK_CACHE_BYTES, rdcc_nslots=10007)
    images = _dataset(h5py, file, IMAGES)
    if images is None:
        raise ReadError(
            f"it has no data set `{IMAGES}`, only {', '.join(list(file)[:5]) or 'nothing'}; store images as uint8 "
            f"[N,C,H,W] or [N,H,W,C] under `{IMAGES}` and classes under `{LABELS}`"
        )
    others = [name for name in file if name.lower() in MAY_BE_LABELS]
    if LABELS not in file and others:
        raise ReadError(
            f"it has no `{LABELS}`, but `{others[0]}`; name it `{LABELS}` if it holds the classes, or delete it"
        )
    return HDF5Reader(images, _dataset(h5py, file, LABELS), paths)


def _dataset(h5py: Any, file: Any, name: str) -> Any:
    """A data set that is stored in this very file; None where there is none."""
    link = file.get(name, getlink=True)
    if link is None:
        return None
    found = file[name] if isinstance(link, h5py.HardLink) else None
    if found is None:
        raise ReadError(f"its `{name}` is a link to {_target(link)}, which is not followed; store the array itself")
    if not isinstance(found, h5py.Dataset):
        raise ReadError(f"its `{name}` is a {type(found).__name__.lower()}, not an array; store an array there")
    if found.shape is None:
        raise ReadError(f"its `{name}` is empty, without a shape; store an array there")
    if found.is_virtual or found.external:
        raise ReadError(f"its `{name}` is stored in another file, which is not read; write one file that holds it")
    if not is_stored(found):
        raise ReadError(
            f"its `{name}` of shape {found.shape} is not stored as a whole, and the rest would be read as zeros; write "
            "the file again to its end"
        )
    return found


def _target(link: Any) -> str:
    """Where a soft or external link leads."""
    file = getattr(link, "filename", None)
    return f"{reprlib.repr(link.path)}{f' in another file, {reprlib.repr(file)}' if file else ''}"


def is_stored(dataset: Any) -> bool:
    """Whether the file holds all values of a data set; HDF5 shows others as zeros."""
    if dataset.chunks is None:
        return dataset.id.get_storage_size() >= dataset.nbytes
    counts = (-(-size // side) for size, side in zip(dataset.shape, dataset.chunks, strict=True))
    return dataset.id.get_num_chunks() >= math.prod(counts)


class HDF5Reader:
    """Reads one image at a time."""

    def __init__(self, images: Any, labels: Any, paths: list[str]) -> None:
        shape = images.shape
        if images.dtype != np.uint8 or len(shape) != 4 or not {shape[1], shape[3]} & {1, 3}:
            raise ReadError(
                f"its `{IMAGES}` is {images.dtype} of shape {shape}; it must be uint8 [N,C,H,W] or [N,H,W,C] with one "
                "or three channels"
            )
        self.images, self.channels_first = images, shape[1] in (1, 3)
        num, (height, width) = len(images), shape[2:] if self.channels_first else shape[1:3]
        check_images(num, height, width, paths)
        values = None if labels is None else class_numbers(_all_of(labels, num), num, f"`{LABELS}`")
        self.contents = Contents([f"{IMAGES}#{number}" for number in range(num)], values)

    def read(self, number: int, name: str) -> bytes:
        image = self.images[number]
        return encode_pnm(image.transpose(1, 2, 0) if self.channels_first else image)


def _all_of(labels: Any, num: int) -> np.ndarray:
    if labels.size != num:
        raise ReadError(f"its `{LABELS}` has shape {labels.shape}, and there are {num} images; store a class for each")
    return labels[()]
