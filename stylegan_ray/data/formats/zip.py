"""A zip of image files, as StyleGAN2-ADA's data set tool writes it."""

from __future__ import annotations

import json
import math
import posixpath
import stat
import struct
import zipfile
import zlib
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import compress, pairwise
from typing import BinaryIO, NamedTuple

import numpy as np

from stylegan_ray.data.atomic_output import Output
from stylegan_ray.data.covers import refuse_covers
from stylegan_ray.data.dataset import Dataset
from stylegan_ray.data.decode import check_beginning
from stylegan_ray.data.encode import encode_png
from stylegan_ray.data.errors import DataError
from stylegan_ray.data.files import LIMIT_KEY, FileInfo, Files
from stylegan_ray.data.formats.folder import is_image, label_file_among, read_labels
from stylegan_ray.data.formats.protocol import EncodedFormat, WritableFormat
from stylegan_ray.data.index import Index, Progress
from stylegan_ray.data.labels import COMMAS_PER_IMAGE, LABEL_FILE, attribution_from_json, label_limit
from stylegan_ray.data.left_out import IMAGE_ENDINGS, NO_FILES, Endings, LeftOut, check_name, quoted, without_dot
from stylegan_ray.data.packed_names import PackedNames
from stylegan_ray.data.scan import Reading, scan
from stylegan_ray.data.splits import Parents, choose_split, parents_of_splits, splits_of_images
from stylegan_ray.untrusted import (
    LARGE_BYTES,
    check_size,
    format_bytes,
    inflate,
    is_stored_or_deflated,
    large_turn,
    printable,
)

ENDING = ".zip"
LOCAL_HEADER = 30
"""Bytes of an entry's local header before its name; an extra field of unknown size follows the name."""
END_RECORD, LONGEST_COMMENT, END_LOCATOR = 22, (1 << 16) - 1, 20
"""Bytes of the record at the end, of the comment behind it, and of what points to the record of large archives."""
MOST_OF_SHORT = (1 << 16) - 1
USUAL_EXTRA = 64
"""Bytes read beyond the name and the content, so that a short extra field costs no second read."""
BEGINNING = 1 << 10
"""Bytes by which an entry is recognized as an image before all of it is decompressed."""
IS_UTF8 = 1 << 11
"""The bit of an entry's flags that says that its name is in UTF-8."""
PNG_OVERHEAD = 300
"""Headers of a PNG and of its zip entry, in bytes."""


class ZipWriting(WritableFormat):
    """Writes the zip of StyleGAN2-ADA's tool."""

    description = "a zip"
    endings = (ENDING,)
    writes_folder = False

    def encode(self, images: np.ndarray) -> list[bytes]:
        """PNG files without compression, which decode fastest; byte for byte those of StyleGAN2-ADA's tool."""
        return [encode_png(image, compress_level=0) for image in images]

    def image_bytes(self, shape: tuple[int, int, int]) -> int:
        return math.prod(shape) + PNG_OVERHEAD

    def open_writer(
        self, output: Output, name: str, is_file: bool, dataset: Dataset, plan_sizes: list[int]
    ) -> ZipWriter:
        return ZipWriter(output, name, dataset)


class Zip(EncodedFormat):
    """Stored or deflated image files, with labels in dataset.json or one folder per class."""

    name = "zip"
    single_file_ending = ENDING
    has_inner_splits = True
    writer = ZipWriting()

    def select(self, listing: Sequence[FileInfo], endings: Endings = IMAGE_ENDINGS) -> list[FileInfo]:
        """None: a zip is opened by its own path, not by that of its folder."""
        return []

    def build_index(
        self, files: Files, infos: Sequence[FileInfo], progress: Progress | None, reading: Reading | None = None
    ) -> Index:
        zip_name, reading = infos[0].name, reading or Reading()
        directory = _read_directory(files, infos[0], reading)
        entries, names = directory.images, PackedNames.pack(entry.filename for entry in directory.images)
        places = {
            "offset": np.array([entry.header_offset for entry in entries], dtype=np.int64),
            "packed": np.array([entry.compress_size for entry in entries], dtype=np.int64),
            "method": np.array([entry.compress_type for entry in entries], dtype=np.uint8),
            "crc": np.array([entry.CRC for entry in entries], dtype=np.uint32),
        }
        stored = [_stored_name(entry) for entry in entries]
        scanned = scan(ZipSource(files, zip_name, names, places, stored).read, names, progress, reading)
        scanned.crc[:] = places["crc"]
        labels = read_labels(directory.labels, names, directory.label_file, directory.parents)
        return Index(
            self.name, names, places, labels, **vars(scanned), shards=(zip_name,),
            attribution=attribution_from_json(directory.labels, len(names)), left_out=tuple(directory.left_out),
        )  # fmt: skip

    def source(self, files: Files, index: Index) -> ZipSource:
        return ZipSource(files, index.shards[0], index.names, index.places)


class Directory(NamedTuple):
    """What a zip holds."""

    images: list[zipfile.ZipInfo]
    """By name."""
    label_file: str
    labels: bytes | None
    """The content of the label file, if there is one."""
    left_out: list[str]
    parents: Parents
    """Where the splits of its images are."""


def _read_directory(files: Files, info: FileInfo, reading: Reading) -> Directory:
    """The entries of images, and the content of dataset.json; raises DataError."""
    path = f"data.path={files.root}/{info.name}"
    try:
        with files.open(info.name) as file, zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            _check_count(file, info.size, len(entries))
            for entry in entries:
                entry.filename = without_dot(_name_of(entry))
                check_name(entry.filename, path)
            _refuse_outside(entries, info.size, path)
            _refuse_overlaps(entries, path)
            all_images, left_out = _images_among(entries, reading)
            all_names = [entry.filename for entry in all_images]
            used, note = choose_split(splits_of_images(all_names), reading.split, "images")
            images = list(compress(all_images, used.tolist()))
            names = [entry.filename for entry in images]
            refuse_covers(names, (entry.filename for entry in entries if entry.file_size), f"{files.root}/{info.name}")
            by_name = {entry.filename: entry for entry in entries}
            label_file = label_file_among(list(by_name), names)
            left_out.add_label_files(label_file, by_name, names)
            _refuse_twice([*images, *(entry for entry in entries if entry.filename == label_file)], path)
            _refuse_packed([*images, *([by_name[label_file]] if label_file else [])], path)
            labels = _read_labels(archive, by_name[label_file], len(names), path) if label_file else None
    except (zipfile.BadZipFile, EOFError, zlib.error, struct.error) as error:
        raise DataError(
            f"{path} is not a whole zip file: {printable(str(error))}; copy it again from its origin"
        ) from error
    return Directory(
        images, label_file or "", labels, [*left_out.lines(), *filter(None, [note])], parents_of_splits(all_names)
    )


def _check_count(file: BinaryIO, size: int, num: int) -> None:
    """Raises BadZipFile where the record at the end counts other entries than zipfile has found in the directory."""
    begin = max(0, size - END_RECORD - LONGEST_COMMENT - END_LOCATOR)
    file.seek(begin)
    tail = file.read(size - begin)
    at = tail.rfind(b"PK\5\6")
    (stated,) = struct.unpack_from("<H", tail, at + 10)
    if stated == MOST_OF_SHORT and tail[max(at - END_LOCATOR, 0) : at].startswith(b"PK\6\7"):
        return  # the count is in the record of large archives, with 64 bits
    if stated != num % (MOST_OF_SHORT + 1):
        raise zipfile.BadZipFile(f"its end counts {stated} files, and its directory holds {num}")


def _name_of(entry: zipfile.ZipInfo) -> str:
    """The name of an entry, also where it is in UTF-8 and not marked so, as macOS writes it."""
    if entry.flag_bits & IS_UTF8 or entry.filename.isascii():
        return entry.filename
    try:
        return entry.filename.encode("cp437").decode("utf-8")
    except UnicodeError:  # it is in code page 437, as the flag says
        return entry.filename


def _stored_name(entry: zipfile.ZipInfo) -> bytes:
    """The name of an entry in the zip's directory; zipfile leaves a name that it cannot read in another encoding."""
    return entry.orig_filename.encode("utf-8" if entry.flag_bits & IS_UTF8 else "cp437")


def _images_among(entries: list[zipfile.ZipInfo], reading: Reading) -> tuple[list[zipfile.ZipInfo], LeftOut]:
    """The entries of images by name, and what else could be meant as images."""
    left_out, images = LeftOut(), []
    for entry in sorted(entries, key=lambda entry: entry.filename):
        name = entry.filename.replace("\\", "/")
        if name.endswith("/"):
            continue
        if not is_image(name, reading.endings):
            left_out.add_unused([name], (), are_images=True)
        elif stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG):
            left_out.add(NO_FILES, name)
        else:
            images.append(entry)
    return images, left_out


def _refuse_outside(entries: list[zipfile.ZipInfo], file_size: int, path: str) -> None:
    """Raises DataError for an entry that is not within the file, as where the zip's directory is damaged or cut."""
    for entry in entries:
        begin = entry.header_offset
        if begin < 0 or begin + LOCAL_HEADER + entry.compress_size > file_size:
            raise DataError(
                f"{path}: {quoted(entry.filename)} is said to be at byte {begin} and to take {entry.compress_size} "
                f"bytes, and the file ends at byte {file_size}; copy it again from its origin"
            )


def _refuse_overlaps(entries: list[zipfile.ZipInfo], path: str) -> None:
    """Raises DataError where entries share bytes: a small file could hold any number of images (a zip bomb)."""
    ordered = sorted(entries, key=lambda entry: entry.header_offset)
    for entry, after in pairwise(ordered):
        size = LOCAL_HEADER + len(entry.filename) + entry.compress_size
        if entry.header_offset + size > after.header_offset:
            raise DataError(
                f"{path}: {quoted(entry.filename)} and {quoted(after.filename)} overlap in the file, as no zip "
                "program writes it; write the zip again"
            )


def _refuse_twice(entries: list[zipfile.ZipInfo], path: str) -> None:
    """Raises DataError for two entries of one name: programs differ in which of them they read."""
    found: dict[str, str] = {}
    for entry in entries:
        name = posixpath.normpath(entry.filename.replace("\\", "/"))
        if name in found:
            raise DataError(
                f"{path} holds one file twice, as {quoted(found[name])} and as {quoted(entry.orig_filename)}; write "
                "it again with each file once"
            )
        found[name] = entry.orig_filename


def _refuse_packed(entries: list[zipfile.ZipInfo], path: str) -> None:
    """Raises DataError for entries that are encrypted or compressed by an unusual method."""
    for entry in entries:
        if not is_stored_or_deflated(entry):
            raise DataError(
                f"{path}: {quoted(entry.filename)} is encrypted, or compressed by a method other "
                "than deflate; write the zip again without compression (`zip -0`)"
            )


def _read_labels(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, num_images: int, path: str) -> bytes:
    """The content of the label file, which is of bounded size; raises DataError."""
    limit = label_limit(num_images)
    with archive.open(entry) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise DataError(
            f"{path}: {quoted(entry.filename)} takes more than {format_bytes(limit)}, the limit for the labels of "
            f"{num_images} images; store labels in Parquet files, or write it again"
        )
    return content


@dataclass(frozen=True)
class ZipSource:
    """Reads the images of a zip, one read at a known offset each, so that threads and processes share no position."""

    files: Files
    zip_name: str
    names: PackedNames
    places: dict[str, np.ndarray]
    stored_names: Sequence[bytes] | None = None
    """To be compared with the names that the entries themselves have, when the data set is opened."""

    def read(self, entry: int, at_least: int | None = None) -> bytes:
        """The bytes of an image file: all, or what the first `at_least` compressed bytes decompress to."""
        packed_size = int(self.places["packed"][entry])
        wanted = packed_size if at_least is None else min(packed_size, at_least)
        check_size(wanted, self.files.max_bytes, "the image", LIMIT_KEY)
        if wanted > LARGE_BYTES:
            large_turn.take()
        packed = self._packed(entry, wanted)
        if self.places["method"][entry] == zipfile.ZIP_STORED:
            content = packed
        elif wanted == packed_size:
            check_beginning(zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed[:BEGINNING], BEGINNING))
            content = inflate(packed, self.files.max_bytes, "the image", LIMIT_KEY)
        else:  # the beginning of the stream, for its header
            content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, self.files.max_bytes)
        if wanted == packed_size and zlib.crc32(content) != self.places["crc"][entry]:
            raise ValueError("is damaged: its CRC differs from the one in the zip's directory")
        return content

    def _packed(self, entry: int, size: int) -> bytes:
        offset = int(self.places["offset"][entry])
        name_size = len(self.names[entry].encode("utf-8", "surrogateescape"))
        chunk = self.files.read_at(self.zip_name, offset, LOCAL_HEADER + name_size + USUAL_EXTRA + size)
        if chunk[:4] != b"PK\x03\x04" or len(chunk) < LOCAL_HEADER:
            raise ValueError("is not at the offset that the zip's directory names")
        name_size, extra_size = struct.unpack_from("<HH", chunk, 26)
        name, start = chunk[LOCAL_HEADER : LOCAL_HEADER + name_size], LOCAL_HEADER + name_size + extra_size
        if self.stored_names is not None and name != self.stored_names[entry]:
            raise ValueError(f"has the name {printable(name)} in its own header, not that of the zip's directory")
        if len(chunk) < start + size:
            return self.files.read_at(self.zip_name, offset + start, size)
        return chunk[start : start + size]


class ZipWriter:
    """Writes 00000/img00000000.png, ... and dataset.json."""

    def __init__(self, output: Output, name: str, dataset: Dataset) -> None:
        self.dataset, self.labels = dataset, dataset.compact_labels()
        if self.labels is not None and self.labels.ndim == 2 and self.labels.shape[1] > COMMAS_PER_IMAGE:
            raise DataError(
                f"DEST {name}: labels of {self.labels.shape[1]} numbers are more than the {COMMAS_PER_IMAGE} that are "
                "read of a dataset.json; write a .parquet, or a folder for TFRecord files"
            )
        self.indices: list[int] = []
        self.stack = ExitStack()
        file = self.stack.enter_context(output.open(name))
        self.archive = self.stack.enter_context(zipfile.ZipFile(file, "w", zipfile.ZIP_STORED))

    def add(self, indices: Sequence[int], pieces: Sequence[bytes]) -> None:
        for number, piece in enumerate(pieces, start=len(self.indices)):
            self.archive.writestr(_entry(image_name(number)), piece)
        self.indices += indices

    def finish(self) -> None:
        names = map(image_name, range(len(self.indices)))
        tree = {"class_names": self.dataset.class_names, "attribution": self.dataset.attribution}
        text = '{"labels": null'
        if (labels := self.labels) is not None:
            pairs = zip(names, (labels[index].tolist() for index in self.indices), strict=True)
            text = f'{{"labels": [{", ".join(map(json.dumps, pairs))}]'
        for key, value in tree.items():
            text += f', "{key}": {json.dumps(value)}' if value else ""
        self.archive.writestr(_entry(LABEL_FILE), text + "}")
        self.close()

    def close(self) -> None:
        self.stack.close()


def image_name(number: int) -> str:
    """The name of an image in the zip, with a folder for every thousand images."""
    return f"{number // 1000:05d}/img{number:08d}.png"


def _entry(name: str) -> zipfile.ZipInfo:
    """A zip entry with a fixed date, so that equal data makes equal files."""
    info = zipfile.ZipInfo(name)
    info.external_attr = 0o644 << 16
    return info
