"""Data sets of other programs that only `prepare_data` reads: LMDB, HDF5, idx, CIFAR's pickles and .mat files.

They are read in child processes (see reader_process).
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from stylegan_ray.credentials import logger_of
from stylegan_ray.data.errors import DataError
from stylegan_ray.data.files import FileInfo, Files, LocalFiles
from stylegan_ray.data.formats.protocol import EncodedFormat, the_one
from stylegan_ray.data.index import Index, Progress
from stylegan_ray.data.labels import Labels
from stylegan_ray.data.left_out import IMAGE_ENDINGS, LOCK_OF_LMDB, Endings, list_names, quoted
from stylegan_ray.data.packed_names import PackedNames
from stylegan_ray.data.reader_process import ReaderProcess
from stylegan_ray.data.scan import Reading, scan
from stylegan_ray.data.splits import TRAIN, split_name
from stylegan_ray.readers.cifar_reader import BATCHES, is_part
from stylegan_ray.untrusted import printable

log = logger_of(__name__)


class ForeignFormat(EncodedFormat):
    """A data set of another program, in one file or a few."""

    is_trainable = False
    endings: ClassVar[tuple[str, ...]] = ()

    def is_data_set(self, path: str) -> bool:
        return path.lower().endswith(self.endings) if self.endings else False

    def parts(self, files: Files, infos: Sequence[FileInfo]) -> list[str]:
        """Names of the files that the reader needs, from those that were selected."""
        return [info.name for info in infos]

    def build_index(
        self, files: Files, infos: Sequence[FileInfo], progress: Progress | None, reading: Reading | None = None
    ) -> Index:
        if "://" in files.root:
            raise DataError(
                f"data.path={files.root}: {self.description} is read from a local disk; copy it there first"
            )
        shards = tuple(self.parts(files, infos))
        process = reader_process(self.name, files, shards)
        contents = process.contents()
        for note in contents.notes:
            log.warning("%s", printable(note, most=2000))
        names = PackedNames.pack(contents.names)
        labels = (
            Labels()
            if contents.labels is None
            else Labels.of(contents.labels, shards[0], tuple(contents.class_names) or None)
        )
        scanned = scan(ForeignSource(process, names).read, names, progress, reading)
        return Index(self.name, names, {}, labels, **vars(scanned), shards=shards)

    def source(self, files: Files, index: Index) -> ForeignSource:
        return ForeignSource(reader_process(self.name, files, index.shards), index.names)


def reader_process(kind: str, files: Files, shards: Sequence[str]) -> ReaderProcess:
    """A reader of these files."""
    return ReaderProcess(kind, [f"{files.root}/{name}" for name in shards])


@dataclass(frozen=True)
class ForeignSource:
    """Reads images through the child process of each process."""

    process: ReaderProcess
    names: PackedNames

    def read(self, entry: int, at_least: int | None = None) -> bytes:
        """The bytes of an image file."""
        return self.process.read(entry, self.names[entry])


class LMDB(ForeignFormat):
    """The folder of an LMDB, or its data.mdb."""

    name = "lmdb"
    description = "an LMDB"
    endings = (".mdb",)

    def is_data_set(self, path: str) -> bool:
        return super().is_data_set(path) and _base(path) != LOCK_OF_LMDB

    def select(self, listing: Sequence[FileInfo], endings: Endings = IMAGE_ENDINGS) -> list[FileInfo]:
        return the_one([info for info in listing if _base(info.name) == "data.mdb"], self.description)


class HDF5(ForeignFormat):
    """An .h5 or .hdf5 file."""

    name = "hdf5"
    description = "an HDF5 file"
    endings = (".h5", ".hdf5")

    def select(self, listing: Sequence[FileInfo], endings: Endings = IMAGE_ENDINGS) -> list[FileInfo]:
        """None: it is opened by its own path."""
        return []


class Mat(ForeignFormat):
    """A .mat file of SVHN."""

    name = "mat"
    description = "a MATLAB file"
    endings = (".mat",)

    def select(self, listing: Sequence[FileInfo], endings: Endings = IMAGE_ENDINGS) -> list[FileInfo]:
        """None: it is opened by its own path."""
        return []


class IDX(ForeignFormat):
    """A file of images of MNIST and its like, with the file of labels beside it; a folder means its training images."""

    name = "idx"
    description = "an idx file"
    IMAGES: ClassVar = re.compile(r"(.*)images([-.])idx3(-ubyte(?:\.gz)?)")
    LABELS: ClassVar = re.compile(r".*labels[-.]idx1-ubyte(?:\.gz)?")

    def is_data_set(self, path: str) -> bool:
        return "idx3" in path and self.IMAGES.fullmatch(_base(path)) is not None

    def select(self, listing: Sequence[FileInfo], endings: Endings = IMAGE_ENDINGS) -> list[FileInfo]:
        found = [info for info in listing if self.is_data_set(info.name)]
        training = [info for info in found if self._is_training(info.name)] or found
        plain = {info.name for info in training if not info.name.endswith(".gz")}
        return the_one(
            [info for info in training if info.name.removesuffix(".gz") not in plain - {info.name}], self.description
        )

    def _is_training(self, name: str) -> bool:
        """Whether train is a word of the name, as in train-images-idx3-ubyte and emnist-letters-train-images..."""
        match = self.IMAGES.fullmatch(_base(name))
        return match is not None and split_name(match[1]).split == TRAIN

    def parts(self, files: Files, infos: Sequence[FileInfo]) -> list[str]:
        image_file = infos[0].name
        match = self.IMAGES.fullmatch(_base(image_file))
        assert match is not None and isinstance(files, LocalFiles)
        folder, label_file = image_file[: -len(match[0])], f"{match[1]}labels{match[2]}idx1{match[3]}"
        for name in (label_file, label_file.removesuffix(".gz"), f"{label_file}.gz"):
            if files.holds(folder + name):
                return [image_file, folder + name]
        others = [
            info
            for info in files.listing()
            if _base(info.name).startswith(f"{match[1]}labels") and _place(info.name) == _place(image_file)
        ]
        if labels := the_one([info for info in others if self.LABELS.fullmatch(_base(info.name))], "a file of labels"):
            return [image_file, labels[0].name]
        log.warning(
            "%s has no labels: there is no regular file %s beside it (links out of the folder are read with "
            "follow_links)%s", quoted(image_file), quoted(label_file),
            f", and {list_names([info.name for info in others])} is not read" if others else "",
        )  # fmt: skip
        return [image_file]


class CIFAR(ForeignFormat):
    """The folder of CIFAR-10 or CIFAR-100 for Python, or its archive; the training images."""

    name = "cifar"
    description = "CIFAR's folder of pickles"
    ARCHIVE: ClassVar = re.compile(r"cifar-100?-python(?:\.tar\.gz|\.tgz|\.tar)")

    def is_data_set(self, path: str) -> bool:
        return self.ARCHIVE.fullmatch(_base(path)) is not None

    def select(self, listing: Sequence[FileInfo], endings: Endings = IMAGE_ENDINGS) -> list[FileInfo]:
        by_folder: dict[str, dict[str, FileInfo]] = {}
        for info in listing:
            if is_part(info.name):
                folder, _, name = info.name.rpartition("/")
                by_folder.setdefault(folder, {})[name] = info
        whole = [
            parts for parts in by_folder.values() if {"train", "meta"} <= parts.keys() or parts.keys() & set(BATCHES)
        ]
        first = the_one([next(iter(parts.values())) for parts in whole], self.description)
        return list(whole[0].values()) if first else []


def _place(path: str) -> str:
    """The folder of a file; of a file in a folder of its own name, as Kaggle's are, the folder of that."""
    folder, _, name = path.rpartition("/")
    return os.path.dirname(folder) if _base(folder) == name else folder


def _base(path: str) -> str:
    return path.rpartition("/")[2]
