"""Data formats: the registry, and which format the files at a path have."""

from __future__ import annotations

from collections.abc import Sequence

from stylegan_ray.data.errors import DataError
from stylegan_ray.data.files import FileInfo, Files
from stylegan_ray.data.formats.celeba import CelebA
from stylegan_ray.data.formats.folder import Folder
from stylegan_ray.data.formats.foreign import CIFAR, HDF5, IDX, LMDB, Mat
from stylegan_ray.data.formats.parquet import Parquet
from stylegan_ray.data.formats.protocol import Format, WritableFormat
from stylegan_ray.data.formats.tar import Tar
from stylegan_ray.data.formats.tfrecord import TFRecord
from stylegan_ray.data.formats.zip import Zip
from stylegan_ray.data.left_out import IMAGE_ENDINGS, Endings, quoted

FORMATS: tuple[Format, ...] = (
    TFRecord(),
    Parquet(),
    Tar(),
    Folder(),
    Zip(),
)
"""A folder has the first format that selects any of its files and claims them."""
FOREIGN_FORMATS: tuple[Format, ...] = (LMDB(), HDF5(), Mat(), IDX(), CIFAR(), CelebA())
"""What only prepare_data reads; there they come before the others."""

__all__ = ["FOREIGN_FORMATS", "FORMATS", "by_file_name", "by_listing", "by_name", "foreign_of", "writable_formats"]


def by_name(name: str) -> Format:
    """The format of this name; raises KeyError."""
    return {format.name: format for format in (*FORMATS, *FOREIGN_FORMATS)}[name]


def by_file_name(path: str) -> Format | None:
    """The format of a file that holds a whole data set, by its name; None when no format has such names."""
    return next((format for format in (*FOREIGN_FORMATS, *FORMATS) if format.is_data_set(path)), None)


def by_listing(
    listing: Sequence[FileInfo], files: Files, prepares: bool = False, endings: Endings = IMAGE_ENDINGS
) -> tuple[Format, list[FileInfo]]:
    """The format of a folder with these files, and the files that form the data set.

    It is a folder of images when no format recognizes any. `endings` are those of image files. Raises DataError where
    it holds data sets of several other programs.
    """
    if prepares and (foreign := foreign_of(listing, endings)):
        return foreign
    candidates: list[tuple[Format, list[FileInfo]]] = []
    for format in FORMATS:
        if infos := format.select(listing, endings):
            if format.claims(files, infos, listing):
                return format, infos
            candidates.append((format, infos))
    return foreign_of(listing, endings) or (candidates[0] if candidates else (by_name(Folder.name), []))


def foreign_of(listing: Sequence[FileInfo], endings: Endings) -> tuple[Format, list[FileInfo]] | None:
    """The data set of another program in a folder; raises DataError for several, as in the folder of torchvision."""
    found = [(format, infos) for format in FOREIGN_FORMATS if (infos := format.select(listing, endings))]
    if len(found) > 1:
        named = " and ".join(f"{format.description} ({quoted(infos[0].name)})" for format, infos in found)
        raise DataError(f"data.path holds {named}; give the path of the one to read")
    return found[0] if found else None


def writable_formats() -> dict[str, WritableFormat]:
    """How to write each format that can be written, by its name."""
    return {format.name: format.writer for format in FORMATS if format.writer}
