"""From the data section of a configuration to an opened data set."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence

import numpy as np

from stylegan_ray.config import DataConfig, nearest
from stylegan_ray.data import folder, openmoji, zipped
from stylegan_ray.data.dataset import Dataset, DecodedPictures, Source
from stylegan_ray.data.errors import DataError
from stylegan_ray.data.files import FileInfo, Files, files_at
from stylegan_ray.data.index import Index, Progress, cached_index
from stylegan_ray.data.labels import chosen_size
from stylegan_ray.data.policies import chosen_decoder


def open_dataset(cfg: DataConfig, seed: int = 0, progress: Progress | None = None) -> Dataset:
    """The data set that `data.path` names, checked; raises DataError before anything else is started.

    The first opening looks at every picture; what it finds is kept in the cache (see index.cache_folder).
    """
    is_openmoji = cfg.path is None or cfg.path == openmoji.NAME
    path = openmoji.NAME if is_openmoji else str(cfg.path)
    index, source = _indexed(openmoji.prepared(cfg, progress) if is_openmoji else path, progress)
    if not len(index.names):
        raise DataError(f"data.path={path} holds no pictures (looked for {', '.join(folder.PICTURE_ENDINGS)})")
    decoder = chosen_decoder(cfg, index, path)
    label_size = chosen_size(index.labels, cfg.cond, cfg.max_label_size, path)
    rows = chosen_rows(len(index.names), cfg.subset, seed)
    return Dataset(
        path=path, pictures=DecodedPictures(source, decoder), names=index.names, rows=rows,
        label_values=index.labels.values if label_size else None, label_size=label_size,
        resolution=decoder.resolution, num_channels=decoder.num_channels,
        fingerprint=_fingerprint(index, rows, vars(decoder), label_size),
        bad=index.bad, class_names=index.labels.class_names if label_size else None, attribution=index.attribution,
    )  # fmt: skip


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


def _indexed(path: str, progress: Progress | None) -> tuple[Index, Source]:
    """The index of the data at a path, and where its bytes come from."""
    if path.lower().endswith(".zip"):
        files, zip_name = _parent(path)
        infos = [_info(files, zip_name, path)]
        index = cached_index(path_key(path), infos, lambda: zipped.build_index(files, zip_name, progress))
        return index, zipped.ZipSource(files, zip_name, index.names, index.places)
    files = files_at(path)
    infos = folder.relevant(_listing(files, path))
    index = cached_index(path_key(path), infos, lambda: folder.build_index(files, infos, progress))
    return index, folder.FolderSource(files, index.names)


def path_key(path: str) -> str:
    """One spelling of a path."""
    return path if "://" in path else os.path.realpath(path)


def _parent(path: str) -> tuple[Files, str]:
    head, _, name = (path if "://" in path else os.path.abspath(path)).rpartition("/")
    return files_at(head or "/"), name


def _info(files: Files, name: str, path: str) -> FileInfo:
    try:
        return files.info(name)
    except OSError as error:
        raise DataError(_missing(path, error)) from error


def _listing(files: Files, path: str) -> Sequence[FileInfo]:
    try:
        return files.listing()
    except NotADirectoryError as error:
        raise DataError(f"data.path={path} is a file, but neither a folder nor a zip of pictures") from error
    except OSError as error:
        raise DataError(_missing(path, error)) from error


def _missing(path: str, error: OSError) -> str:
    """What is known about a path that cannot be opened, with the nearest name that exists."""
    if not isinstance(error, FileNotFoundError):
        return f"data.path={path} cannot be read: {error}"
    head, tail = os.path.split(os.path.abspath(path))
    hint = nearest(tail, os.listdir(head)) if "://" not in path and os.path.isdir(head) else ""
    if not hint and "://" not in path and not os.path.isdir(head):
        hint = f"; its folder {head} does not exist either"
    return f"data.path={path} does not exist{hint or '; `openmoji` is the built-in set'}"
