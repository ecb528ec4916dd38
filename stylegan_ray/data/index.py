"""The index of a data set: built when it is first opened, then loaded from a cache."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from PIL import features

from stylegan_ray.credentials import logger_of
from stylegan_ray.data.files import FileInfo
from stylegan_ray.data.labels import Labels
from stylegan_ray.data.packed_names import PackedNames
from stylegan_ray.storage import delete_old_partials, whole_file
from stylegan_ray.untrusted import printable

INDEX_VERSION = 7
"""Increased when an index of an earlier version cannot be read, or says what is not found in the data any more."""

IS_COLOR, IS_TRANSPARENT, IS_BAD = 1, 2, 4
"""Bits of Index.flags."""

Progress = Callable[[int, int, str], None]
"""Called with (done, total, what)."""

log = logger_of(__name__)


@dataclass(frozen=True)
class Index:
    """All images of a data set as they are stored, whatever the data section makes of them."""

    format: str
    """Name of the format (see data.formats.FORMATS)."""
    names: PackedNames
    places: dict[str, np.ndarray]
    """Arrays that locate each image, as its format needs them."""
    labels: Labels
    height: np.ndarray
    width: np.ndarray
    flags: np.ndarray
    """uint8 [n] of IS_COLOR, IS_TRANSPARENT, IS_BAD."""
    crc: np.ndarray
    """uint32 [n]: CRC-32 of each image file (of its first bytes where only headers were read)."""
    bad: dict[int, str] = field(default_factory=dict)
    """Why the images marked IS_BAD cannot be used."""
    shards: tuple[str, ...] = ()
    """Names of the files, where one file holds several images."""
    attribution: str | None = None
    depth: np.ndarray | None = None
    """uint8 [n]: bits of images that are stored with more than 8 (see decode.depth_of); None: there are none."""
    left_out: tuple[str, ...] = ()
    """What archives hold and is not used, one line for each reason."""
    faults: tuple[str, ...] = ()
    """Images that could not be read by a fault of this machine: such an index is not cached."""
    stamp: str = ""
    """What the index was made from (see stamp_of); it is not saved."""

    def digest(self) -> str:
        """sha256 of names, contents and labels; does not depend on where the data is stored."""
        sha = hashlib.sha256(self.format.encode())
        parts = [self.names.characters, self.names.ends, self.crc, self.height, self.width, self.flags]
        labels = self.labels.values if self.labels.sparse is None else self.labels.sparse
        for part in [*parts, *([] if labels is None or self.labels.is_late else [labels])]:
            sha.update(np.ascontiguousarray(part).tobytes())
        return sha.hexdigest()

    def save(self, path: Path) -> None:
        """Writes the index atomically."""
        meta = {
            "format": self.format, "bad": self.bad, "shards": self.shards, "attribution": self.attribution,
            "label_problem": self.labels.problem, "class_names": self.labels.class_names,
            "label_is_late": self.labels.is_late, "left_out": self.left_out,
        }  # fmt: skip
        arrays = {f"place:{name}": array for name, array in self.places.items()}
        if self.labels.values is not None:
            arrays["labels"] = self.labels.values
        if self.labels.sparse is not None:
            arrays["sparse_labels"] = self.labels.sparse
        if self.depth is not None:
            arrays["depth"] = self.depth
        scanned = {name: getattr(self, name) for name in ("height", "width", "flags", "crc")}
        arrays |= {"meta": np.array(json.dumps(meta)), "joined": self.names.characters, "ends": self.names.ends}
        delete_old_partials(path.parent)
        with whole_file(path) as partial, open(partial, "wb") as file:
            np.savez(file, **{**arrays, **scanned})  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path) -> Index:
        """The index that `save` wrote; raises OSError, ValueError or KeyError when there is none or it is damaged."""
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        meta = json.loads(str(arrays["meta"]))
        class_names = None if meta["class_names"] is None else tuple(meta["class_names"])
        return cls(
            format=meta["format"], names=PackedNames(arrays["joined"], arrays["ends"]),
            places={name[6:]: array for name, array in arrays.items() if name.startswith("place:")},
            labels=Labels(
                arrays.get("labels"), meta["label_problem"], class_names, arrays.get("sparse_labels"),
                meta["label_is_late"],
            ),
            height=arrays["height"], width=arrays["width"], flags=arrays["flags"], crc=arrays["crc"],
            bad={int(i): reason for i, reason in meta["bad"].items()},
            shards=tuple(meta["shards"]), attribution=meta["attribution"], depth=arrays.get("depth"),
            left_out=tuple(meta["left_out"]),
        )  # fmt: skip


def stamp_of(infos: Iterable[FileInfo], keys: Mapping[str, Any]) -> str:
    """sha256 of all that an index follows from.

    That is name, size and times of every file, `keys` of the data section, and what the installed Pillow decodes.
    """
    sha = hashlib.sha256(json.dumps([INDEX_VERSION, decoders(), dict(keys)], sort_keys=True).encode())
    for info in infos:
        text = f"{info.name}\0{info.size}\0{info.mtime_ns}\0{info.ctime_ns}\0"
        sha.update(text.encode("utf-8", "surrogateescape"))
    return sha.hexdigest()


def load_or_build_index(path: str, stamp: str, build: Callable[[], Index]) -> Index:
    """The index of the data at `path`, from the cache while its stamp (see stamp_of) is the same."""
    owner = hashlib.sha256(path.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    file = cache_folder() / "prepared" / f"{owner}-{stamp[:16]}.npz"
    try:
        return Index.load(file)
    except Exception as error:  # absent, truncated or of another version: it is only a cache
        log.debug("no cached index of %s: %s", path, error)
    index = build()
    if index.faults:
        log.warning(
            "data.path=%s: %d images cannot be read by a fault of this machine, e.g. %s; the index is built again "
            "at the next start", printable(path), len(index.faults), index.faults[0],
        )  # fmt: skip
        return index
    try:
        index.save(file)
        _delete_older(file, owner)
    except OSError as error:
        log.warning(
            "the index of %s cannot be cached in %s: %s; set $STYLEGAN_RAY_CACHE to another folder",
            path,
            file.parent,
            error,
        )
    return index


def decoders() -> list[str]:
    """Pillow's version and the decoders that it was built with."""
    return [PIL.__version__, *(name for name in ("avif", "jpg", "libtiff", "webp", "zlib") if features.check(name))]


def cache_folder() -> Path:
    """The folder of all caches: $STYLEGAN_RAY_CACHE or ~/.cache/stylegan_ray."""
    return Path(os.path.expanduser(os.environ.get("STYLEGAN_RAY_CACHE") or "~/.cache/stylegan_ray"))


def _delete_older(file: Path, owner: str) -> None:
    for other in file.parent.glob(f"{owner}-*.npz"):
        if other != file:
            other.unlink(missing_ok=True)
