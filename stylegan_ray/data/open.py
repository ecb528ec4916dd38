"""Opens the data set that the data section of a configuration describes."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from stylegan_ray.config import DataConfig, nearest
from stylegan_ray.data import formats, openmoji
from stylegan_ray.data.dataset import Dataset
from stylegan_ray.data.decode_policy import choose_decoder, requested_resolution
from stylegan_ray.data.errors import DataError
from stylegan_ray.data.files import Files, files_at
from stylegan_ray.data.formats.folder import IMAGE_ENDINGS
from stylegan_ray.data.index import Index, Progress, load_or_build_index
from stylegan_ray.data.labels import Labels, choose_label_size, list_names
from stylegan_ray.storage import split_address

log = logging.getLogger(__name__)


def open_dataset(cfg: DataConfig, seed: int = 0, progress: Progress | None = None) -> Dataset:
    """The data set that `data.path` names, checked as a whole; raises DataError.

    The first call reads every image and stores what it finds in the cache (see index.cache_folder).
    """
    return apply_config(cfg, *open_index(cfg, progress), seed)


def open_index(cfg: DataConfig, progress: Progress | None = None) -> tuple[Files, Index]:
    """The files that `data.path` names, and the index of their images; raises DataError when there are none."""
    path = data_path(cfg)
    files, index = index_files(openmoji.prepare(cfg, progress) if path == openmoji.NAME else path, progress)
    refuse_empty(files, index, path)
    return files, index


def data_path(cfg: DataConfig) -> str:
    """`data.path` as messages name it."""
    return openmoji.NAME if cfg.path is None or cfg.path == openmoji.NAME else os.path.expanduser(cfg.path)


def refuse_empty(files: Files, index: Index, path: str) -> None:
    """Raises DataError when the data set holds no images."""
    if not len(index.names):
        raise DataError(f"data.path={path} holds no images{_suggest_other_files(files, path)}")


def apply_config(cfg: DataConfig, files: Files, index: Index, seed: int = 0) -> Dataset:
    """The data set that the data section makes of the images found; raises DataError when they do not allow it."""
    path, format = data_path(cfg), formats.by_name(index.format)
    index = format.select_level(index, requested_resolution(cfg))
    if format.prefers_blocks and cfg.shuffle == "full":
        log.warning(
            "data.shuffle=full reads a whole row group of %s for each image; data.shuffle=blocks is faster", path
        )
    decoder = choose_decoder(cfg, index, path)
    label_size = choose_label_size(index.labels, cfg.cond, cfg.max_label_size, path)
    rows = choose_rows(len(index.names), cfg.subset, seed)
    dataset = Dataset(
        path=path, images=format.open_images(files, index, decoder), names=index.names, rows=rows,
        label_values=index.labels.values if label_size else None, label_size=label_size,
        resolution=decoder.resolution, num_channels=decoder.num_channels,
        fingerprint=_fingerprint(index, rows, vars(decoder), label_size),
        bad=index.bad, class_names=index.labels.class_names if label_size else None, attribution=index.attribution,
        block_rows=format.block_rows(index), label_note=note_on_labels(cfg, index.labels),
    )  # fmt: skip
    if cfg.balance:
        dataset.check_classes()
    return dataset


def note_on_labels(cfg: DataConfig, labels: Labels) -> str:
    """What to say about labels that are there and not used."""
    unused = not cfg.cond and labels.values is not None
    return f"labels of size {labels.size} are ignored; --data.cond trains on them" if unused else ""


def choose_rows(num_images: int, subset: int | None, seed: int) -> np.ndarray:
    """Indices of the images that are used, sorted: all, or `subset` of them, which StyleGAN2-ADA chooses for a seed."""
    rows = np.arange(num_images, dtype=np.int64)
    if subset is None or subset >= num_images:
        return rows
    np.random.RandomState(seed % 2**32).shuffle(rows)
    return np.sort(rows[:subset])


def _fingerprint(index: Index, rows: np.ndarray, decoding: dict, label_size: int) -> str:
    """sha256 of the data and of all that decides how training sees it; a run refuses to continue on another one."""
    sha = hashlib.sha256(index.digest().encode())
    sha.update(rows.tobytes() if len(rows) < len(index.names) else b"all")
    sha.update(json.dumps([decoding, label_size], sort_keys=True).encode())
    return sha.hexdigest()


def index_files(path: str, progress: Progress | None = None, decode: bool = True) -> tuple[Files, Index]:
    """The files at a path and the index of their images, from the cache or built now; raises DataError.

    Without `decode` only headers of images are read, and the index is not cached.
    """
    with _as_data_errors(path):
        format = formats.by_file_name(split_address(path)[1])
        if format is not None:
            folder, name = split_address(path if "://" in path else os.path.abspath(path))
            files = files_at(folder)
            infos = [files.info(name)]
        else:
            files = files_at(path)
            listing = files.listing()
            format = formats.by_listing(listing)
            infos = format.select(listing)
        if not decode:
            return files, format.build_index(files, infos, progress, 0)
        return files, load_or_build_index(
            normalize_path(path), infos, lambda: format.build_index(files, infos, progress)
        )


def _suggest_other_files(files: Files, path: str) -> str:
    """What a path without images holds, as the end of a sentence."""
    if formats.by_file_name(split_address(path)[1]):
        return ""
    alone = [
        info.name
        for info in files.listing()
        if (format := formats.by_file_name(info.name)) and not format.select([info])
    ]
    return f", but {list_names(alone)}: name the file itself" if alone else f" ({', '.join(IMAGE_ENDINGS)})"


@contextmanager
def _as_data_errors(path: str) -> Iterator[None]:
    """Turns errors of the file system into errors that name data.path."""
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


def normalize_path(path: str) -> str:
    """One spelling for all paths of the same data."""
    return path if "://" in path else os.path.realpath(path)


def _nearest(path: str) -> str:
    """A hint: the nearest name that exists."""
    if "://" in path:
        return ""
    head, tail = os.path.split(os.path.abspath(path))
    if not os.path.isdir(head):
        return f"; its folder {head} does not exist either"
    return nearest(tail, os.listdir(head)) or f"; `{openmoji.NAME}` is the built-in data set"
