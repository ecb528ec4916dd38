"""A folder of TFRecord files, one per level of detail, with a label file: the data sets of ProGAN and StyleGAN."""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from PIL import Image

from stylegan_ray.data.decode import Decoder
from stylegan_ray.data.errors import BadImage, DataError
from stylegan_ray.data.files import FileInfo, Files
from stylegan_ray.data.formats.crc32c import masked_crc32c
from stylegan_ray.data.formats.tfrecord_wire import (
    Example,
    Frame,
    bad_payloads,
    frames,
    parse_example,
    record_bytes,
)
from stylegan_ray.data.index import IS_BAD, IS_COLOUR, Index, Progress
from stylegan_ray.data.labels import Labels
from stylegan_ray.data.packed_names import Names
from stylegan_ray.data.pyramid import reduced

ENDING, LABEL_ENDING = ".tfrecords", ".labels"
PIECE_BYTES = 1 << 24
CHECK_BYTES = 1 << 35
"""Payloads of larger data sets are checked when they are read instead of at the first opening."""

Shape = tuple[int, ...]


@dataclass
class FileIndex:
    """The records of one file, as far as they were read."""

    name: str
    shape: Shape = ()
    """(C, H, W) of all its pictures."""
    start: list[int] = field(default_factory=list)
    """Where each payload begins in the file."""
    data: list[int] = field(default_factory=list)
    """Where the pixels begin in each payload."""
    size: list[int] = field(default_factory=list)
    """Bytes of each payload."""
    crc: list[int] = field(default_factory=list)
    """The stored CRC of each payload."""
    bad: dict[int, str] = field(default_factory=dict)
    last: Example | None = None
    """The latest example, and the bytes around its pixels."""
    around: bytes = b""


def relevant(infos: Sequence[FileInfo]) -> list[FileInfo]:
    """The files of a folder that make the data set."""
    return [info for info in infos if info.name.endswith((ENDING, LABEL_ENDING)) and "/" not in info.name]


def build_index(files: Files, infos: Sequence[FileInfo], progress: Progress | None, _decode_up_to: int = 0) -> Index:
    """Walks through all records of all files, checking lengths, CRCs and shapes, and reads the labels."""
    records = [info for info in infos if info.name.endswith(ENDING)]
    total, done = sum(info.size for info in records), 0
    found = []
    for info in records:
        index = FileIndex(info.name)
        for at in _walk(files, info, total <= CHECK_BYTES, index):
            if progress:
                progress((done + at) >> 20, total >> 20, "checking TFRecords (MiB)")
        done += info.size
        found.append(index)
    found = sorted((index for index in found if index.start), key=lambda index: index.shape, reverse=True)
    _check_levels(found, files.root)
    return _as_index(found, total <= CHECK_BYTES, _labels(files, infos))


def at_resolution(index: Index, wanted: tuple[int, int] | None) -> Index:
    """The index as of its level of this size, if there is one."""
    sizes = [tuple(shape[1:]) for shape in index.places["shapes"].tolist()]
    if wanted not in sizes:
        return index
    height, width = (np.full_like(index.height, side) for side in wanted or ())
    return replace(index, height=height, width=width)


class TFRecordPictures:
    """Pixels straight from the file of the level that is wanted, or reduced from the next larger one."""

    def __init__(self, files: Files, index: Index, decoder: Decoder) -> None:
        self.files, self.decoder = files, decoder
        self.names, self.places = index.shards, index.places
        self.shapes = [tuple(shape) for shape in index.places["shapes"].tolist()]

    def read(self, entry: int, name: str, level: int) -> np.ndarray:
        """uint8 [C,H>>level,W>>level]; raises BadImage, or OSError when storage fails."""
        height, width = self.decoder.resolution
        for extra in range(level + 1):  # levels that must still be reduced
            shape = (self.decoder.num_channels, height >> (level - extra), width >> (level - extra))
            if shape in self.shapes:
                return reduced(self._pixels(self.shapes.index(shape), entry, name), extra)
        return reduced(self._converted(entry, name), level)

    def _converted(self, entry: int, name: str) -> np.ndarray:
        """The picture in another size or number of channels than any file has."""
        pixels = self._pixels(0, entry, name)
        try:
            return self.decoder.pixels(Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)))
        except ValueError as error:
            raise BadImage(name, str(error)) from error

    def _pixels(self, file: int, entry: int, name: str) -> np.ndarray:
        shape = self.shapes[file]
        start, data = (int(self.places[f"{part}{file}"][entry]) for part in ("start", "data"))
        if not self.places["checked"]:
            return self._checked(file, entry, name)[data : data + math.prod(shape)].reshape(shape).copy()
        content = self.files.read_at(self.names[file], start + data, math.prod(shape))
        if len(content) < math.prod(shape):
            raise BadImage(name, f"{self.names[file]} became shorter since it was opened")
        return np.frombuffer(content, dtype=np.uint8).reshape(shape).copy()

    def _checked(self, file: int, entry: int, name: str) -> np.ndarray:
        """A whole payload whose CRC was not looked at when the data set was opened."""
        start, size = (int(self.places[f"{part}{file}"][entry]) for part in ("start", "size"))
        payload = np.frombuffer(self.files.read_at(self.names[file], start, size), dtype=np.uint8)
        if len(payload) < size or masked_crc32c(payload[None])[0] != self.places[f"crc{file}"][entry]:
            raise BadImage(name, f"its record at byte {start} of {self.names[file]} does not fit its CRC")
        return payload


def _walk(files: Files, info: FileInfo, check: bool, index: FileIndex) -> Iterator[int]:
    """Fills the index of one file piece by piece; yields how far it is."""
    at = 0
    with files.open(info.name) as file:
        while at < info.size:
            file.seek(at)
            piece = file.read(PIECE_BYTES)
            try:
                some_frames, used = frames(piece, at, info.size, info.name)
                if not used:  # one record larger than a piece
                    file.seek(at)
                    piece = file.read(record_bytes(piece))
                    some_frames, used = frames(piece, at, info.size, info.name)
                _add(index, piece, at, some_frames, check)
            except ValueError as error:
                raise DataError(f"data.path={files.root}: {error}; copy the file again from where it came") from error
            at += used
            yield at


def _add(index: FileIndex, piece: bytes, offset: int, some_frames: list[Frame], check: bool) -> None:
    first, view = len(index.start), memoryview(piece)
    bad = bad_payloads(piece, some_frames) if check else []
    for i, (start, size) in enumerate(some_frames):
        if i in bad:
            index.bad[first + i] = f"its record at byte {offset + start} of {index.name} does not fit its CRC"
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
        return index.last  # all but the pixels are the same bytes: nothing to parse
    try:
        example = parse_example(payload)
    except (ValueError, StopIteration) as error:
        raise ValueError(f"the record at byte {offset} of {index.name} {error}") from error
    index.shape = index.shape or example.shape
    if example.shape != index.shape or len(example.shape) != 3:
        raise ValueError(f"the record at byte {offset} of {index.name} is of shape {example.shape}, not {index.shape}")
    index.last, index.around = example, _around(payload, example)
    return example


def _around(payload: memoryview, example: Example) -> bytes:
    """What a payload holds before and after the pixels."""
    return bytes(payload[: example.data_start]) + bytes(payload[example.data_start + example.data_size :])


def _check_levels(found: list[FileIndex], root: str) -> None:
    """All files must hold the same pictures."""
    for index in found:
        if not index.shape:
            raise DataError(f"data.path={root}: no record of {index.name} fits its CRC; copy it again from its origin")
        if len(index.start) != len(found[0].start) or index.shape[0] != found[0].shape[0]:
            raise DataError(
                f"data.path={root}: {index.name} holds {len(index.start)} pictures of {index.shape[0]} channels, but "
                f"{found[0].name} {len(found[0].start)} of {found[0].shape[0]}; one folder must hold the levels of one "
                "data set"
            )
    if found and found[0].shape[0] not in (1, 3):
        raise DataError(f"data.path={root}: pictures must have 1 or 3 channels, not {found[0].shape[0]}")


def _as_index(found: list[FileIndex], checked: bool, labels: Labels) -> Index:
    num, largest = (len(found[0].start), found[0]) if found else (0, FileIndex("", (1, 0, 0)))
    places = {"checked": np.array(checked), "shapes": np.array([index.shape for index in found]).reshape(-1, 3)}
    for i, index in enumerate(found):
        places[f"start{i}"] = np.array(index.start, dtype=np.int64)
        places |= {f"{part}{i}": np.array(getattr(index, part), dtype=np.uint32) for part in ("data", "size", "crc")}
    bad = {entry: reason for index in reversed(found) for entry, reason in index.bad.items()}
    flags = np.full(num, IS_COLOUR if largest.shape[0] == 3 else 0, dtype=np.uint8)
    flags[list(bad)] |= IS_BAD
    return Index(
        kind="tfrecords", names=Names.of(f"{largest.name}#{i}" for i in range(num)), places=places,
        labels=_matching(labels, num), height=np.full(num, largest.shape[1], dtype=np.uint32),
        width=np.full(num, largest.shape[2], dtype=np.uint32), flags=flags, crc=np.array(largest.crc, dtype=np.uint32),
        bad=bad, shards=tuple(index.name for index in found),
    )  # fmt: skip


def _labels(files: Files, infos: Sequence[FileInfo]) -> Labels:
    """The first label file, a .npy array of one row per record."""
    names = [info.name for info in infos if info.name.endswith(LABEL_ENDING)]
    if not names:
        return Labels(problem="there is no .labels file beside the .tfrecords files")
    try:
        values = np.load(io.BytesIO(files.read(names[0])), allow_pickle=False)
    except (ValueError, EOFError) as error:
        return Labels(problem=f"{names[0]} is not a .npy array: {error}")
    if values.ndim == 1 and np.issubdtype(values.dtype, np.integer):
        return Labels(values.astype(np.int32))
    if values.ndim != 2:
        return Labels(problem=f"{names[0]} must hold one row per picture, not an array of shape {values.shape}")
    return Labels(values.astype(np.float32))


def _matching(labels: Labels, num: int) -> Labels:
    """Labels cut to the number of pictures, as the original does."""
    if labels.values is None:
        return labels
    if len(labels.values) < num:
        return Labels(problem=f"the .labels file has {len(labels.values)} rows for {num} pictures")
    return replace(labels, values=labels.values[:num])
