"""A folder of picture files, at any depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stylegan_ray.data.files import FileInfo, Files
from stylegan_ray.data.index import Index, Progress
from stylegan_ray.data.labels import LABEL_FILE, Labels, labels_from_folders, labels_from_json
from stylegan_ray.data.packed_names import Names
from stylegan_ray.data.scan import scan

PICTURE_ENDINGS = (
    ".png", ".jpg", ".jpeg", ".jfif", ".webp", ".avif", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".pbm",
)  # fmt: skip


@dataclass(frozen=True)
class FolderSource:
    """Bytes of the pictures of a folder."""

    files: Files
    names: Names

    def read(self, entry: int, at_least: int | None = None) -> bytes:
        """A picture's bytes: all, or the first `at_least`."""
        name = self.names[entry]
        if at_least is None:
            return self.files.read(name)
        with self.files.open(name) as file:
            return file.read(at_least)


def is_picture(name: str) -> bool:
    """Whether a file is taken for a picture, by its name."""
    hidden = name.rpartition("/")[2].startswith(".") or name.startswith("__MACOSX/")
    return name.lower().endswith(PICTURE_ENDINGS) and not hidden


def relevant(infos: Sequence[FileInfo]) -> list[FileInfo]:
    """The files of a folder that make the data set."""
    return [info for info in infos if is_picture(info.name) or info.name == LABEL_FILE]


def build_index(
    files: Files, infos: Sequence[FileInfo], progress: Progress | None, decode_up_to: int | None = None
) -> Index:
    """Opens all pictures and reads the labels."""
    names = Names.of(info.name for info in infos if info.name != LABEL_FILE)
    has_json = any(info.name == LABEL_FILE for info in infos)
    seen = scan(FolderSource(files, names).read, names, progress, decode_up_to)
    labels = found_labels(files.read(LABEL_FILE) if has_json else None, names)
    return Index(kind="folder", names=names, places={}, labels=labels, **vars(seen))


def source(files: Files, index: Index) -> FolderSource:
    """Where the bytes of an indexed data set come from."""
    return FolderSource(files, index.names)


def found_labels(content: bytes | None, names: Names) -> Labels:
    """Labels from dataset.json, or without one from the sub-folders."""
    if not len(names):
        return Labels()
    return labels_from_folders(names) if content is None else labels_from_json(content, names)
