"""Pictures of a data set, such as a thumbnail, beside the files that hold it: nobody means to train on them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence

from stylegan_ray.data.errors import DataError
from stylegan_ray.data.left_out import MAY_HOLD_IMAGES, LeftOut, is_hidden, joined_lines, list_names, reason_of
from stylegan_ray.data.name_words import is_cover
from stylegan_ray.untrusted import printable

FEW_IMAGES = 10
"""Images beside the files of a data set that are taken as pictures of it, such as a thumbnail."""
MOST_COVERS = 2
"""So few images beside archives are covers of a data set, whatever their names are."""
DATA = "files that may hold images and are not read (write the images as PNG, or as a zip, tar or Parquet of them)"
DATA_ENDINGS = (
    ".npz", ".npy", ".pkl", ".pickle", ".bin", ".mds", ".beton", ".rec", ".lmdb", ".feather", ".orc", ".pt", ".pth",
    ".safetensors", ".gz", ".bz2", ".xz", ".zst", ".lz4", ".part",
)  # fmt: skip
PART_OF_AN_ARCHIVE = re.compile(r"\.(?:zip|tar|7z|rar)\.[0-9a-z]+|\.(?:z|r)[0-9]{2}")
"""Endings of the pieces of an archive: x.zip.001."""


def refuse_covers(images: Sequence[str], others: Iterable[str], path: str) -> None:
    """Raises DataError where the only images are one or two, or covers and the like, beside what may be the data set.

    Not beside files that are named after an image, which describe it.
    """
    if not images or len(images) > FEW_IMAGES or (len(images) > MOST_COVERS and not all(map(is_cover, images))):
        return
    stems, data = {os.path.splitext(name)[0] for name in images}, LeftOut()
    for name in others:
        if (reason := _why_data(name)) and os.path.splitext(name)[0] not in stems:
            data.add(reason, name)
    if data.counts:
        raise DataError(
            f"data.path={printable(path)} holds no images but {list_names(list(images))}, beside what may be the data "
            f"set: {joined_lines(data.lines())}; to train on these images, move them to a folder of their own"
        )


def _why_data(name: str) -> str | None:
    """Why a file is not read that may hold the images; None where it hardly does."""
    reason, last = reason_of(name, are_images=True), name.rpartition("/")[2].lower()
    if reason in MAY_HOLD_IMAGES:
        return reason
    is_data = last.endswith(DATA_ENDINGS) or PART_OF_AN_ARCHIVE.search(last) is not None
    return DATA if is_data and not is_hidden(name) else None
