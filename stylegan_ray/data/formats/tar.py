"""Tar files of images: WebDataset shards, with the label of `name.png` in `name.cls`."""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from stylegan_ray.data.errors import DataError
from stylegan_ray.data.files import FileInfo, Files
from stylegan_ray.data.formats.folder import is_image
from stylegan_ray.data.formats.protocol import EncodedFormat
from stylegan_ray.data.index import Index, Progress
from stylegan_ray.data.labels import Labels, labels_from_folders, list_names
from stylegan_ray.data.packed_names import PackedNames
from stylegan_ray.data.scan import scan

ENDING, LABEL_ENDING = ".tar", ".cls"


class Tar(EncodedFormat):
    """One or several uncompressed tar files."""

    name = "tar"
    single_file_ending = ENDING

    def select(self, listing: Sequence[FileInfo]) -> list[FileInfo]:
        return [info for info in listing if info.name.lower().endswith(ENDING)]

    def build_index(
        self, files: Files, infos: Sequence[FileInfo], progress: Progress | None, decode_up_to: int | None = None
    ) -> Index:
        members, shards = _Members(), tuple(info.name for info in infos)
        for number, info in enumerate(infos):
            _read_headers(members, files, number, info.name)
            if progress:
                progress(number + 1, len(infos), "reading tar headers")
        names = PackedNames.pack(
            name if len(shards) == 1 else f"{shards[shard]}/{name}"
            for name, shard in zip(members.names, members.shard, strict=True)
        )
        places = {part: np.array(getattr(members, part), dtype=np.int64) for part in ("shard", "offset", "size")}
        scanned = scan(TarSource(files, shards, places).read, names, progress, decode_up_to)
        return Index(self.name, names, places, _labels(members), **vars(scanned), shards=shards)

    def source(self, files: Files, index: Index) -> TarSource:
        return TarSource(files, index.shards, index.places)


@dataclass(frozen=True)
class TarSource:
    """Reads the images of tar files, one read at a known offset each."""

    files: Files
    shards: Sequence[str]
    places: dict[str, np.ndarray]

    def read(self, entry: int, at_least: int | None = None) -> bytes:
        """The bytes of an image file: all, or the first `at_least`."""
        size = int(self.places["size"][entry])
        shard, offset = self.shards[int(self.places["shard"][entry])], int(self.places["offset"][entry])
        return self.files.read_at(shard, offset, size if at_least is None else min(size, at_least))


@dataclass
class _Members:
    """Members of the tar files, in the order in which they are stored."""

    names: list[str] = field(default_factory=list)
    shard: list[int] = field(default_factory=list)
    offset: list[int] = field(default_factory=list)
    size: list[int] = field(default_factory=list)
    classes: dict[str, int] = field(default_factory=dict)
    """By shard and sample key."""


def _read_headers(members: _Members, files: Files, shard: int, file_name: str) -> None:
    """Adds the members of one tar file; raises DataError."""
    try:
        with files.open(file_name) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                if member.isfile() and is_image(member.name):
                    members.names.append(member.name.removeprefix("./"))
                    members.shard.append(shard)
                    members.offset.append(member.offset_data)
                    members.size.append(member.size)
                elif member.isfile() and member.name.endswith(LABEL_ENDING):
                    content = archive.extractfile(member)
                    assert content is not None
                    members.classes[_key(shard, member.name.removeprefix("./"))] = int(content.read())
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise DataError(
            f"data.path={files.root}/{file_name} cannot be read as an uncompressed tar file: {error}; "
            "unpack it, or write it again without compression"
        ) from error


def _key(shard: int, name: str) -> str:
    """WebDataset's key of a sample: the name up to the first dot of its last part."""
    folder, slash, last = name.rpartition("/")
    return f"{shard}/{folder}{slash}{last.partition('.')[0]}"


def _labels(members: _Members) -> Labels:
    if not members.names:
        return Labels()
    if not members.classes:
        return labels_from_folders(PackedNames.pack(members.names), "the tar files hold no .cls files")
    keys = [_key(shard, name) for shard, name in zip(members.shard, members.names, strict=True)]
    missing = [name for name, key in zip(members.names, keys, strict=True) if key not in members.classes]
    if missing:
        return Labels(problem=f"there is no .cls file for {list_names(missing)}")
    return Labels(np.array([members.classes[key] for key in keys], dtype=np.int32))
