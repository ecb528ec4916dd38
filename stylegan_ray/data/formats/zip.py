"""A zip of picture files, as StyleGAN2-ADA's data set tool writes it."""

from __future__ import annotations

import json
import struct
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stylegan_ray.data.errors import DataError
from stylegan_ray.data.files import FileInfo, Files
from stylegan_ray.data.formats.folder import found_labels, is_picture
from stylegan_ray.data.index import Index, Progress
from stylegan_ray.data.labels import LABEL_FILE
from stylegan_ray.data.packed_names import Names
from stylegan_ray.data.scan import scan

ENDING = ".zip"
LOCAL_HEADER = 30
USUAL_EXTRA = 64
IS_ENCRYPTED = 1


@dataclass(frozen=True)
class ZipSource:
    """Bytes of the pictures of a zip: one read at a known offset each, so threads and processes do not meet."""

    files: Files
    zip_name: str
    names: Names
    places: dict[str, np.ndarray]

    def read(self, entry: int, at_least: int | None = None) -> bytes:
        """A picture's bytes: all, or at least the first so many (of a packed one)."""
        packed_size = int(self.places["packed"][entry])
        wanted = packed_size if at_least is None else min(packed_size, at_least)
        packed = self._packed(entry, wanted)
        stored = self.places["method"][entry] == zipfile.ZIP_STORED
        content = packed if stored else zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed)
        if wanted == packed_size and zlib.crc32(content) != self.places["crc"][entry]:
            raise ValueError("is damaged: its CRC differs from the one in the zip's directory")
        return content

    def _packed(self, entry: int, size: int) -> bytes:
        offset = int(self.places["offset"][entry])
        name_size = len(self.names[entry].encode("utf-8", "surrogateescape"))
        chunk = self.files.read_at(self.zip_name, offset, LOCAL_HEADER + name_size + USUAL_EXTRA + size)
        if chunk[:4] != b"PK\x03\x04" or len(chunk) < LOCAL_HEADER:
            raise ValueError("does not stand where the zip's directory says")
        start = LOCAL_HEADER + sum(struct.unpack_from("<HH", chunk, 26))
        if len(chunk) < start + size:
            return self.files.read_at(self.zip_name, offset + start, size)
        return chunk[start : start + size]


def build_index(
    files: Files, infos: Sequence[FileInfo], progress: Progress | None, decode_up_to: int | None = None
) -> Index:
    """Reads the directory of the zip, opens all pictures and reads the labels."""
    zip_name = infos[0].name
    try:
        with files.open(zip_name) as file, zipfile.ZipFile(file) as archive:
            entries = sorted((e for e in archive.infolist() if is_picture(e.filename)), key=lambda e: e.filename)
            content = archive.read(LABEL_FILE) if LABEL_FILE in archive.NameToInfo else None
    except (zipfile.BadZipFile, EOFError, zlib.error) as error:
        raise DataError(f"data.path={files.root}/{zip_name} is not a whole zip file: {error}") from error
    _refuse_unreadable(entries, zip_name)
    names = Names.of(entry.filename for entry in entries)
    places = {
        "offset": np.array([entry.header_offset for entry in entries], dtype=np.int64),
        "packed": np.array([entry.compress_size for entry in entries], dtype=np.int64),
        "method": np.array([entry.compress_type for entry in entries], dtype=np.uint8),
        "crc": np.array([entry.CRC for entry in entries], dtype=np.uint32),
    }
    seen = scan(ZipSource(files, zip_name, names, places).read, names, progress, decode_up_to)
    seen.crc[:] = places["crc"]
    labels = found_labels(content, names)
    return Index("zip", names, places, labels, **vars(seen), shards=(zip_name,), attribution=_attribution(content))


def source(files: Files, index: Index) -> ZipSource:
    """Where the bytes of an indexed data set come from."""
    return ZipSource(files, index.shards[0], index.names, index.places)


def _refuse_unreadable(entries: list[zipfile.ZipInfo], zip_name: str) -> None:
    for entry in entries:
        if entry.flag_bits & IS_ENCRYPTED or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise DataError(
                f"data.path: {entry.filename!r} in {zip_name} is encrypted or packed by a method other than deflate; "
                "write the zip again without compression (`zip -0`)"
            )


def _attribution(content: bytes | None) -> str | None:
    try:
        tree = json.loads(content or b"{}")
    except ValueError:
        return None
    return tree.get("attribution") if isinstance(tree, dict) else None
