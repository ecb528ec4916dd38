"""A folder of TFRecord files, one or some shards per level of detail, with a label file: as ProGAN and StyleGAN do."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import BinaryIO

import numpy as np

from stylegan_ray.data.atomic_output import Output
from stylegan_ray.data.dataset import Dataset
from stylegan_ray.data.decode import Decoder
from stylegan_ray.data.encode import to_pil
from stylegan_ray.data.errors import BadImage, DataError
from stylegan_ray.data.files import LIMIT_KEY, FileInfo, Files
from stylegan_ray.data.formats.protocol import Format, StoredImage, WritableFormat
from stylegan_ray.data.formats.tfrecord_wire import (
    Example,
    Frame,
    bad_payloads,
    encode_example,
    file_name,
    find_frames,
    frame_records,
    image_levels,
    masked_crc32c,
    parse_example,
    record_bytes,
)
from stylegan_ray.data.index import IS_BAD, IS_COLOR, Index, Progress
from stylegan_ray.data.labels import Labels
from stylegan_ray.data.left_out import (
    IMAGE_ENDINGS,
    TFRECORD_ENDING,
    TFRECORD_LABELS_ENDING,
    Endings,
    list_names,
    missing_parts,
    quoted,
)
from stylegan_ray.data.npy import parse_npy
from stylegan_ray.data.packed_names import PackedNames
from stylegan_ray.data.pyramid import downscale
from stylegan_ray.data.scan import Reading
from stylegan_ray.untrusted import check_size, describe_pointer, printable

ENDING, LABEL_ENDING = TFRECORD_ENDING, TFRECORD_LABELS_ENDING
SHARD_NAME = re.compile(r"(.*?)[0-9]+-of-([0-9]+)\.tfrecords", re.IGNORECASE)
"""A part of a data set, as TensorFlow Datasets names it: the name, its number, and how many parts there are."""
LEVEL = re.compile(r"[-_.]?r?[0-9]+(?:x[0-9]+)?\Z", re.IGNORECASE)
"""The end of the name of one level, without the ending: -r05 of cats-r05, as ProGAN and StyleGAN write it, or _32."""
LABELS_OF = re.compile(r"(.*)-rxx\.labels", re.IGNORECASE)
"""The label file of ProGAN and StyleGAN, which names its data set."""
PIECE_BYTES = 1 << 24
"""Bytes of a file that are read and checked together."""
CHECK_BYTES = 1 << 35
"""Payloads of larger data sets are checked when they are read instead of when the data set is first opened."""
LABEL_ROWS = 1 << 14
"""Rows of the label file that are in memory at once when it is written."""
RECORD_OVERHEAD = 100
"""Frame and example of a record besides its pixels, in bytes."""

Shape = tuple[int, ...]


class TFRecordWriting(WritableFormat):
    """Writes a folder of TFRecord files of all levels."""

    description = "TFRecord files"
    endings = (ENDING, LABEL_ENDING)
    writes_file = False
    shuffles = True

    def encode(self, images: np.ndarray) -> list[bytes]:
        """Records of images uint8 [N,C,H,W], one piece per level."""
        return [frame_records([encode_example(image) for image in level]) for level in image_levels(images)]

    def image_bytes(self, shape: tuple[int, int, int]) -> int:
        return sum(level.nbytes + RECORD_OVERHEAD for level in image_levels(np.zeros(shape, dtype=np.uint8)))

    def open_writer(
        self, output: Output, name: str, is_file: bool, dataset: Dataset, plan_sizes: list[int]
    ) -> TFRecordWriter:
        return TFRecordWriter(output, name, dataset)


class TFRecord(Format):
    """Uncompressed pixels at several resolutions, with labels in a .npy array."""

    name = "tfrecords"
    writer = TFRecordWriting()

    def select(self, listing: Sequence[FileInfo], endings: Endings = IMAGE_ENDINGS) -> list[FileInfo]:
        """The files of records and of labels at the top of the folder; none where no file holds a record."""
        found = [info for info in listing if _ends_with(info, ENDING, LABEL_ENDING) and "/" not in info.name]
        used = [info for info in found if info.size or _ends_with(info, LABEL_ENDING)]
        return used if any(_ends_with(info, ENDING) for info in used) else []

    def build_index(
        self, files: Files, infos: Sequence[FileInfo], progress: Progress | None, reading: Reading | None = None
    ) -> Index:
        """Checks lengths, CRCs and shapes of all records, however few images are to be decoded."""
        records = [info for info in infos if _ends_with(info, ENDING)]
        total, done = sum(info.size for info in records), 0
        found = []
        for info in records:
            index = FileIndex(info.name)
            for at in _read_records(files, info, total <= CHECK_BYTES, index):
                if progress:
                    progress((done + at) >> 20, total >> 20, "checking TFRecords (MiB)")
            done += info.size
            found.append(index)
        levels = _levels([index for index in found if index.start], files.root)
        _check_levels(levels, files.root)
        return _as_index(levels, total <= CHECK_BYTES, _labels(files, infos, levels))

    def open_images(self, files: Files, index: Index, decoder: Decoder) -> TFRecordImages:
        return TFRecordImages(files, index, decoder)

    def inspector(self, files: Files, index: Index, extra_formats: tuple[str, ...] = ()) -> TFRecordInspector:
        channels, height, width = (int(size) for size in index.places["shapes"][0])
        return TFRecordInspector(TFRecordImages(files, index, Decoder((height, width), channels)), index)

    def select_level(self, index: Index, resolution: tuple[int, int] | None) -> Index:
        """The index as of the file of this resolution, if there is one."""
        sizes = [tuple(shape[1:]) for shape in index.places["shapes"].tolist()]
        if resolution not in sizes:
            return index
        height, width = (np.full_like(index.height, side) for side in resolution or ())
        return replace(index, height=height, width=width)


@dataclass
class FileIndex:
    """The records of one file, as far as it has been read."""

    name: str
    shape: Shape = ()
    """(C, H, W) of all its images."""
    start: list[int] = field(default_factory=list)
    """Position of each payload in the file."""
    data: list[int] = field(default_factory=list)
    """Position of the pixels in each payload."""
    size: list[int] = field(default_factory=list)
    """Bytes of each payload."""
    crc: list[int] = field(default_factory=list)
    """The stored CRC of each payload."""
    bad: dict[int, str] = field(default_factory=dict)
    last: Example | None = None
    """The latest example, and the bytes around its pixels."""
    around: bytes = b""


Level = list[FileIndex]
"""The files of one resolution: one, or shards in the order of their numbers."""


class TFRecordImages:
    """Reads pixels from the files of the requested level, or downscales those of the next larger one."""

    def __init__(self, files: Files, index: Index, decoder: Decoder) -> None:
        self.files, self.decoder = files, decoder
        self.names, self.places = index.shards, index.places
        self.shapes = [tuple(shape) for shape in index.places["shapes"].tolist()]

    def read(self, entry: int, name: str, level: int) -> np.ndarray:
        """uint8 [C,H>>level,W>>level]; raises BadImage, or OSError when storage fails."""
        height, width = self.decoder.resolution
        for extra in range(level + 1):  # levels by which pixels are downscaled after reading
            shape = (self.decoder.num_channels, height >> (level - extra), width >> (level - extra))
            if shape in self.shapes:
                return downscale(self._pixels(self.shapes.index(shape), entry, name), extra)
        return downscale(self._converted(entry, name), level)

    def _converted(self, entry: int, name: str) -> np.ndarray:
        """An image in a size or number of channels that no file has."""
        pixels = self._pixels(0, entry, name)
        try:
            return self.decoder.convert(to_pil(pixels))
        except ValueError as error:
            raise BadImage(name, str(error)) from error

    def _pixels(self, level: int, entry: int, name: str) -> np.ndarray:
        shape = self.shapes[level]
        file, start, data = (int(self.places[f"{part}{level}"][entry]) for part in ("file", "start", "data"))
        if not self.places["checked"]:
            return self._checked(level, entry, name)[data : data + math.prod(shape)].reshape(shape).copy()
        content = self.files.read_at(self.names[file], start + data, math.prod(shape))
        if len(content) < math.prod(shape):
            raise BadImage(name, f"{self.names[file]} became shorter after it was opened")
        return np.frombuffer(content, dtype=np.uint8).reshape(shape).copy()

    def _checked(self, level: int, entry: int, name: str) -> np.ndarray:
        """A whole payload whose CRC was not checked when the data set was opened."""
        file, start, size = (int(self.places[f"{part}{level}"][entry]) for part in ("file", "start", "size"))
        payload = self.files.read_at(self.names[file], start, size)
        if len(payload) < size or masked_crc32c(payload) != self.places[f"crc{level}"][entry]:
            raise BadImage(name, f"its record at byte {start} of {self.names[file]} does not match its CRC")
        return np.frombuffer(payload, dtype=np.uint8)


class TFRecordInspector:
    """Reads images of the largest file."""

    def __init__(self, images: TFRecordImages, index: Index) -> None:
        self.images, self.index = images, index

    def __call__(self, entry: int) -> StoredImage:
        name = self.index.names[entry]
        if entry in self.index.bad:
            raise BadImage(name, self.index.bad[entry])
        image = to_pil(self.images.read(entry, name, 0))
        return StoredImage("TFRecord", image.mode, image)


def _ends_with(info: FileInfo, *endings: str) -> bool:
    """Whether the name of a file has one of these endings, in any case."""
    return info.name.lower().endswith(endings)


def _read_records(files: Files, info: FileInfo, check: bool, index: FileIndex) -> Iterator[int]:
    """Fills the index of one file piece by piece; yields the offset reached."""
    at = 0
    with files.open(info.name) as file:
        while at < info.size:
            file.seek(at)
            piece = file.read(PIECE_BYTES)
            try:
                some_frames, used = find_frames(piece, at, info.size, info.name)
                if not used:  # one record larger than a piece
                    check_size(record_bytes(piece), files.max_bytes, f"a record of {info.name}", LIMIT_KEY)
                    file.seek(at)
                    piece = file.read(record_bytes(piece))
                    some_frames, used = find_frames(piece, at, info.size, info.name)
                _add(index, piece, at, some_frames, check)
            except ValueError as error:
                raise DataError(f"data.path={files.root}: {error}; copy the file again from its origin") from error
            at += used
            yield at


def _add(index: FileIndex, piece: bytes, offset: int, some_frames: list[Frame], check: bool) -> None:
    first, view = len(index.start), memoryview(piece)
    bad = bad_payloads(piece, some_frames) if check else set()
    for i, (start, size) in enumerate(some_frames):
        if i in bad:
            index.bad[first + i] = f"its record at byte {offset + start} of {index.name} does not match its CRC"
            example = Example((), 0, 0)
        else:
            example = _example(view[start : start + size], index, offset + start)
        index.start.append(offset + start)
        index.data.append(example.data_start)
        index.size.append(size)
        index.crc += struct.unpack_from("<I", piece, start + size)


def _example(payload: memoryview, index: FileIndex, offset: int) -> Example:
    """The example in a payload, which must have the shape of the others of its file."""
    if index.last and _around(payload, index.last) == index.around and len(payload) == index.size[-1]:
        return index.last  # all but the pixels are the same bytes, so there is nothing to parse
    try:
        example = parse_example(payload)
    except ValueError as error:
        raise ValueError(f"the record at byte {offset} of {index.name} {error}") from error
    index.shape = index.shape or example.shape
    if example.shape != index.shape or len(example.shape) != 3:
        raise ValueError(f"the record at byte {offset} of {index.name} is of shape {example.shape}, not {index.shape}")
    index.last, index.around = example, _around(payload, example)
    return example


def _around(payload: memoryview, example: Example) -> bytes:
    """The bytes of a payload before and after the pixels."""
    return bytes(payload[: example.data_start]) + bytes(payload[example.data_start + example.data_size :])


def _levels(found: list[FileIndex], root: str) -> list[Level]:
    """The files of each resolution, the largest first; raises DataError for files that cannot be joined."""
    by_shape: dict[Shape, Level] = {}
    for index in found:
        if not index.shape:
            raise DataError(
                f"data.path={root}: no record of {index.name} matches its CRC; copy it again from its origin"
            )
        by_shape.setdefault(index.shape, []).append(index)
    for level in by_shape.values():
        if len(level) > 1 and not _are_shards([index.name for index in level]):
            raise DataError(
                f"data.path={root}: {list_names([index.name for index in level])} hold images of one size; give a "
                "folder with one of them, or name them as shards of one data set: NAME-00000-of-00002.tfrecords"
            )
        level.sort(key=lambda index: (len(index.name), index.name))  # 2-of-12 is before 10-of-12
    return [by_shape[shape] for shape in sorted(by_shape, reverse=True)]


def _set_name(name: str) -> str:
    """The data set that a file is named after: cats of cats-r05.tfrecords and cats-00000-of-00002.tfrecords."""
    shard = SHARD_NAME.fullmatch(name)
    stem = shard[1].rstrip("-_.") if shard else name[: -len(ENDING)]
    return LEVEL.sub("", stem)


def _are_shards(names: Sequence[str]) -> bool:
    """Whether files are numbered parts of one data set."""
    matches = [SHARD_NAME.fullmatch(name) for name in names]
    return None not in matches and len({(match[1], match[2]) for match in matches if match}) == 1


def _check_levels(levels: list[Level], root: str) -> None:
    """Raises DataError unless all levels hold the same images."""
    by_set = {_set_name(level[0].name): level[0].name for level in levels}
    if len(by_set) > 1:
        raise DataError(
            f"data.path={root}: {list_names(list(by_set.values()))} are of different data sets by their names; give a "
            "folder with the files of one of them, or give the levels of one data set one name: NAME-r05.tfrecords"
        )
    counts = [sum(len(index.start) for index in level) for level in levels]
    for level, count in zip(levels, counts, strict=True):
        first, largest = level[0], levels[0][0]
        if count != counts[0] or first.shape[0] != largest.shape[0]:
            raise DataError(
                f"data.path={root}: {first.name} holds {count} images of {first.shape[0]} channels, but "
                f"{largest.name} {counts[0]} of {largest.shape[0]}; one folder must hold the levels of one "
                "data set"
            )
    if levels and levels[0][0].shape[0] not in (1, 3):
        raise DataError(
            f"data.path={root}: images have {levels[0][0].shape[0]} channels, and must have 1 or 3; write them again"
        )


def _as_index(levels: list[Level], checked: bool, labels: Labels) -> Index:
    largest = levels[0] if levels else []
    channels, height, width = largest[0].shape if largest else (1, 0, 0)
    places = {"checked": np.array(checked), "shapes": np.array([level[0].shape for level in levels]).reshape(-1, 3)}
    bad, shards = {}, [index.name for level in levels for index in level]
    for i, level in enumerate(levels):
        counts = [len(index.start) for index in level]
        places[f"file{i}"] = np.repeat(np.arange(len(level), dtype=np.uint32) + shards.index(level[0].name), counts)
        places[f"start{i}"] = np.concatenate([np.array(index.start, dtype=np.int64) for index in level])
        for part in ("data", "size", "crc"):
            places[f"{part}{i}"] = np.concatenate([np.array(getattr(index, part), dtype=np.uint32) for index in level])
        bad = _bad(level) | bad
    names = PackedNames.pack(f"{index.name}#{i}" for index in largest for i in range(len(index.start)))
    num = len(names)
    flags = np.full(num, IS_COLOR if channels == 3 else 0, dtype=np.uint8)
    flags[list(bad)] |= IS_BAD
    return Index(
        TFRecord.name, names=names, places=places, labels=labels, height=np.full(num, height, dtype=np.uint32),
        width=np.full(num, width, dtype=np.uint32), flags=flags,
        crc=places["crc0"] if levels else np.zeros(0, dtype=np.uint32), bad=bad, shards=tuple(shards),
    )  # fmt: skip


def _bad(level: Level) -> dict[int, str]:
    """Why images of a level cannot be used, by the number of the image."""
    first = np.cumsum([0, *(len(index.start) for index in level)]).tolist()
    return {start + i: reason for start, index in zip(first, level, strict=False) for i, reason in index.bad.items()}


def _labels(files: Files, infos: Sequence[FileInfo], levels: list[Level]) -> Labels:
    """The label file, a .npy array of one row per record; surplus rows are ignored, as by the original."""
    names = [info.name for info in infos if _ends_with(info, LABEL_ENDING)]
    if not names:
        return Labels(problem="there is no .labels file beside the .tfrecords files")
    if len(names) > 1:
        return Labels(problem=f"there are several .labels files, {list_names(names)}; keep the one of these images")
    num = sum(len(index.start) for index in levels[0]) if levels else 0
    if num and (problem := _problem_of_name(names[0], levels[0][0].name)):
        return Labels(problem=problem)
    if missing := missing_parts([index.name for index in levels[0]] if levels else []):
        return Labels(problem=f"{missing[0]}, so that rows of {quoted(names[0])} are those of other images")
    content = files.read(names[0])
    if pointer := describe_pointer(content):
        return Labels(problem=f"{quoted(names[0])} is {pointer}; run `git lfs pull`, or download the file itself")
    try:
        values, _ = parse_npy(content)
        if not 1 <= values.ndim <= 2:
            raise ValueError(f"it is an array of {values.ndim} dimensions, which must hold one row per image")
    except (ValueError, EOFError) as error:
        return Labels(
            problem=f"{quoted(names[0])} is not a .npy array: {printable(str(error))}; write it with numpy.save"
        )
    if len(values) < num:
        return Labels(problem=f"the .labels file has {len(values)} rows for {num} images")
    return Labels.of(values[:num], quoted(names[0]), name="row {}".format)


def _problem_of_name(labels: str, images: str) -> str:
    """What to say where a label file is named after another data set than a file of images; any other name may be."""
    stated, of = LABELS_OF.fullmatch(labels), _set_name(images)
    if stated is None or of in (stated[1], LEVEL.sub("", stated[1])):
        return ""
    return (
        f"{quoted(labels)} is named after another data set than {quoted(images)}; name it "
        f"{quoted(f'{of}-rxx{LABEL_ENDING}')} if it holds the labels of these images"
    )


class TFRecordWriter:
    """Writes `<name>-rNN.tfrecords` for every level and `<name>-rxx.labels`, as ProGAN and StyleGAN store data sets."""

    def __init__(self, output: Output, name: str, dataset: Dataset) -> None:
        self.output, self.name, self.dataset = output, name, dataset
        self.indices: list[int] = []
        self.stack = ExitStack()
        levels = image_levels(np.zeros(dataset.resolution, dtype=np.uint8))
        names = [file_name(name, max(level.shape)) for level in levels]
        self.files = [self.stack.enter_context(output.open(name)) for name in names]

    def add(self, indices: Sequence[int], pieces: Sequence[bytes]) -> None:
        for file, piece in zip(self.files, pieces, strict=True) if indices else ():
            file.write(piece)
        self.indices += indices

    def finish(self) -> None:
        if self.dataset.label_size:
            with self.output.open(f"{self.name}-rxx{LABEL_ENDING}") as file:
                write_labels(file, self.dataset, np.array(self.indices))
        self.close()

    def close(self) -> None:
        self.stack.close()


def write_labels(file: BinaryIO, dataset: Dataset, indices: np.ndarray) -> None:
    """Writes labels float32 [N,label_size] as a .npy file, without having all of them in memory."""
    shape = (len(indices), dataset.label_size)
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})  # type: ignore
    for start in range(0, len(indices), LABEL_ROWS):
        file.write(dataset.labels(indices[start : start + LABEL_ROWS]).tobytes())
