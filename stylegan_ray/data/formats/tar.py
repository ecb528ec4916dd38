"""Tar files of pictures: WebDataset shards, with the label of `name.png` in `name.cls`."""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from stylegan_ray.data.errors import DataError
from stylegan_ray.data.files import FileInfo, Files
from stylegan_ray.data.formats.folder import is_picture
from stylegan_ray.data.index import Index, Progress
from stylegan_ray.data.labels import Labels, labels_from_folders, some_names
from stylegan_ray.data.packed_names import Names
from stylegan_ray.data.scan import scan

ENDING, LABEL_ENDING = ".tar", ".cls"


@dataclass(frozen=True)
class TarSource:
    """Bytes of the pictures of tar files: one read at a known offset each."""

    files: Files
    shards: Sequence[str]
    places: dict[str, np.ndarray]

    def read(self, entry: int, at_least: int | None = None) -> bytes:
        """A picture's bytes: all, or the first `at_least`."""
        size = int(self.places["size"][entry])
        shard, offset = self.shards[int(self.places["shard"][entry])], int(self.places["offset"][entry])
        return self.files.read_at(shard, offset, size if at_least is None else min(size, at_least))


@dataclass
class _Members:
    """What the tar files hold, in the order in which it stands there."""

    names: list[str] = field(default_factory=list)
    shard: list[int] = field(default_factory=list)
    offset: list[int] = field(default_factory=list)
    size: list[int] = field(default_factory=list)
    classes: dict[str, int] = field(default_factory=dict)
    """By shard and sample key."""


def relevant(infos: Sequence[FileInfo]) -> list[FileInfo]:
    """The files of a folder that make the data set."""
    return [info for info in infos if info.name.endswith(ENDING)]


def build_index(
    files: Files, infos: Sequence[FileInfo], progress: Progress | None, decode_up_to: int | None = None
) -> Index:
    """Walks through the headers of all tar files, opens all pictures and reads the labels."""
    members, shards = _Members(), tuple(info.name for info in infos)
    for number, info in enumerate(infos):
        _add(members, files, number, info.name)
        if progress:
            progress(number + 1, len(infos), "reading tar headers")
    names = Names.of(
        name if len(shards) == 1 else f"{shards[shard]}/{name}"
        for name, shard in zip(members.names, members.shard, strict=True)
    )
    places = {part: np.array(getattr(members, part), dtype=np.int64) for part in ("shard", "offset", "size")}
    seen = scan(TarSource(files, shards, places).read, names, progress, decode_up_to)
    return Index("tar", names, places, _labels(members), **vars(seen), shards=shards)


def source(files: Files, index: Index) -> TarSource:
    """Where the bytes of an indexed data set come from."""
    return TarSource(files, index.shards, index.places)


def _add(members: _Members, files: Files, shard: int, file_name: str) -> None:
    try:
        with files.open(file_name) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                if member.isfile() and is_picture(member.name):
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
            f"data.path={files.root}/{file_name} cannot be read as an uncompressed tar file: {error}"
        ) from error


def _key(shard: int, name: str) -> str:
    """WebDataset's key of a sample: the name up to the first dot of its last part."""
    folder, slash, last = name.rpartition("/")
    return f"{shard}/{folder}{slash}{last.partition('.')[0]}"


def _labels(members: _Members) -> Labels:
    if not members.names:
        return Labels()
    if not members.classes:
        return labels_from_folders(Names.of(members.names), "the tar files hold no .cls files")
    keys = [_key(shard, name) for shard, name in zip(members.shard, members.names, strict=True)]
    missing = [name for name, key in zip(members.names, keys, strict=True) if key not in members.classes]
    if missing:
        return Labels(problem=f"there is no .cls file for {some_names(missing)}")
    return Labels(np.array([members.classes[key] for key in keys], dtype=np.int32))
