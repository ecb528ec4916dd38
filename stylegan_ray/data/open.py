"""From the data section of a configuration to an opened data set."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from stylegan_ray.config import DataConfig, nearest
from stylegan_ray.data import openmoji
from stylegan_ray.data.dataset import Dataset, DecodedPictures, Pictures, Source
from stylegan_ray.data.decode import Decoder
from stylegan_ray.data.decode_policy import chosen_decoder, wanted_resolution
from stylegan_ray.data.errors import DataError
from stylegan_ray.data.files import FileInfo, Files, files_at
from stylegan_ray.data.formats import folder, parquet, tar, tfrecord
from stylegan_ray.data.formats import zip as zip_archive
from stylegan_ray.data.index import Index, Progress, cached_index
from stylegan_ray.data.labels import chosen_size, some_names
from stylegan_ray.data.order import BLOCK_ROWS
from stylegan_ray.storage import split_address

FILE_ENDINGS = (zip_archive.ENDING, tar.ENDING, parquet.ENDING)

log = logging.getLogger(__name__)


def open_dataset(cfg: DataConfig, seed: int = 0, progress: Progress | None = None) -> Dataset:
    """The data set that `data.path` names, checked; raises DataError before anything else is started.

    The first opening looks at every picture; what it finds is kept in the cache (see index.cache_folder).
    """
    return as_configured(cfg, *looked_through(cfg, progress), seed)


def looked_through(cfg: DataConfig, progress: Progress | None = None) -> tuple[Files, Index]:
    """The files that `data.path` names and what they hold; raises DataError when there is no picture."""
    path = path_of(cfg)
    files, index = indexed(openmoji.prepared(cfg, progress) if path == openmoji.NAME else path, progress)
    refuse_empty(files, index, path)
    return files, index


def path_of(cfg: DataConfig) -> str:
    """`data.path` as messages name it."""
    return openmoji.NAME if cfg.path is None or cfg.path == openmoji.NAME else os.path.expanduser(cfg.path)


def refuse_empty(files: Files, index: Index, path: str) -> None:
    """Raises DataError when the data holds no pictures."""
    if not len(index.names):
        raise DataError(f"data.path={path} holds no pictures{_instead(files, path)}")


def as_configured(cfg: DataConfig, files: Files, index: Index, seed: int = 0) -> Dataset:
    """The data set that the data section makes of the pictures found; raises DataError when they do not allow it."""
    path = path_of(cfg)
    if index.kind == "tfrecords":
        index = tfrecord.at_resolution(index, wanted_resolution(cfg))
    if index.kind == "parquet" and cfg.shuffle == "full":
        log.warning("data.shuffle=full reads a whole row group of %s for each picture; blocks is faster", path)
    decoder = chosen_decoder(cfg, index, path)
    label_size = chosen_size(index.labels, cfg.cond, cfg.max_label_size, path)
    rows = chosen_rows(len(index.names), cfg.subset, seed)
    return Dataset(
        path=path, pictures=_pictures(files, index, decoder), names=index.names, rows=rows,
        label_values=index.labels.values if label_size else None, label_size=label_size,
        resolution=decoder.resolution, num_channels=decoder.num_channels,
        fingerprint=_fingerprint(index, rows, vars(decoder), label_size),
        bad=index.bad, class_names=index.labels.class_names if label_size else None, attribution=index.attribution,
        block_rows=parquet.block_rows(index) if index.kind == "parquet" else BLOCK_ROWS,
    )  # fmt: skip


def _pictures(files: Files, index: Index, decoder: Decoder) -> Pictures:
    """What reads the pixels of an indexed data set."""
    source = source_of(files, index)
    if source is None:
        return tfrecord.TFRecordPictures(files, index, decoder)
    return DecodedPictures(source, decoder, index.crc)


def source_of(files: Files, index: Index) -> Source | None:
    """What reads the picture files of an indexed data set; None for TFRecords, which hold pixels."""
    source = {"zip": zip_archive.source, "tar": tar.source, "parquet": parquet.source, "folder": folder.source}
    return source[index.kind](files, index) if index.kind in source else None


def chosen_rows(num_images: int, subset: int | None, seed: int) -> np.ndarray:
    """Which pictures are used: all, or as many as `subset` says, in their order (StyleGAN2-ADA's choice for a seed)."""
    rows = np.arange(num_images, dtype=np.int64)
    if subset is None or subset >= num_images:
        return rows
    np.random.RandomState(seed % 2**32).shuffle(rows)
    return np.sort(rows[:subset])


def _fingerprint(index: Index, rows: np.ndarray, decoding: dict, label_size: int) -> str:
    """sha256 over the data and over all that decides what is seen of it."""
    sha = hashlib.sha256(index.digest().encode())
    sha.update(rows.tobytes() if len(rows) < len(index.names) else b"all")
    sha.update(json.dumps([decoding, label_size], sort_keys=True).encode())
    return sha.hexdigest()


def indexed(path: str, progress: Progress | None = None, decode: bool = True) -> tuple[Files, Index]:
    """The files of the data at a path and what they hold, from the cache or looked through now.

    Without `decode` only headers of pictures are read, and nothing is kept.
    """
    with _explained(path):
        if _is_file(path):
            folder, name = split_address(path if "://" in path else os.path.abspath(path))
            files = files_at(folder)
            listing = [files.info(name)]
        else:
            files = files_at(path)
            listing = files.listing()
        kind = _format(path, listing)
        infos = listing if kind is zip_archive else kind.relevant(listing)
        if not decode:
            return files, kind.build_index(files, infos, progress, 0)
        return files, cached_index(path_key(path), infos, lambda: kind.build_index(files, infos, progress))


def _is_file(path: str) -> bool:
    """Whether a path names one file that holds all pictures."""
    return split_address(path)[1].lower().endswith(FILE_ENDINGS)


def _format(path: str, listing: Sequence[FileInfo]) -> Any:
    """The module that reads the data."""
    if split_address(path)[1].lower().endswith(zip_archive.ENDING):
        return zip_archive
    if tfrecord.relevant(listing):
        return tfrecord
    if any(folder.is_picture(info.name) for info in listing):
        return folder
    return next((kind for kind in (parquet, tar) if kind.relevant(listing)), folder)


def _instead(files: Files, path: str) -> str:
    """What a path without pictures holds."""
    if _is_file(path):
        return ""
    zips = [info.name for info in files.listing() if info.name.lower().endswith(zip_archive.ENDING)]
    return f", but {some_names(zips)}: name the zip itself" if zips else f" ({', '.join(folder.PICTURE_ENDINGS)})"


@contextmanager
def _explained(path: str) -> Iterator[None]:
    """Turns what the file system says about a path into words for its owner."""
    try:
        yield
    except DataError:
        raise
    except NotADirectoryError as error:
        raise DataError(f"data.path={path} is a file, but neither a folder nor a zip, tar or Parquet file") from error
    except FileNotFoundError as error:
        raise DataError(f"data.path={path} does not exist{_nearest(path)}") from error
    except (OSError, ValueError) as error:
        raise DataError(f"data.path={path} cannot be read: {error}") from error


def path_key(path: str) -> str:
    """One spelling of a path."""
    return path if "://" in path else os.path.realpath(path)


def _nearest(path: str) -> str:
    """A hint: the nearest name that exists."""
    if "://" in path:
        return ""
    head, tail = os.path.split(os.path.abspath(path))
    if not os.path.isdir(head):
        return f"; its folder {head} does not exist either"
    return nearest(tail, os.listdir(head)) or f"; `{openmoji.NAME}` is the built-in set"
