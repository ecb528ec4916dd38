"""A folder of image files, at any depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stylegan_ray.data.files import FileInfo, Files
from stylegan_ray.data.formats.protocol import EncodedFormat
from stylegan_ray.data.index import Index, Progress
from stylegan_ray.data.labels import LABEL_FILE, Labels, labels_from_folders, labels_from_json
from stylegan_ray.data.packed_names import PackedNames
from stylegan_ray.data.scan import scan

IMAGE_ENDINGS = (
    ".png", ".jpg", ".jpeg", ".jfif", ".webp", ".avif", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".pbm",
)  # fmt: skip


class Folder(EncodedFormat):
    """Image files, with labels in dataset.json or one sub-folder per class."""

    name = "folder"

    def select(self, listing: Sequence[FileInfo]) -> list[FileInfo]:
        selected = [info for info in listing if is_image(info.name) or info.name == LABEL_FILE]
        return selected if any(info.name != LABEL_FILE for info in selected) else []

    def build_index(
        self, files: Files, infos: Sequence[FileInfo], progress: Progress | None, decode_up_to: int | None = None
    ) -> Index:
        names = PackedNames.pack(info.name for info in infos if info.name != LABEL_FILE)
        has_json = any(info.name == LABEL_FILE for info in infos)
        scanned = scan(FolderSource(files, names).read, names, progress, decode_up_to)
        labels = read_labels(files.read(LABEL_FILE) if has_json else None, names)
        return Index(self.name, names, places={}, labels=labels, **vars(scanned))

    def source(self, files: Files, index: Index) -> FolderSource:
        return FolderSource(files, index.names)


@dataclass(frozen=True)
class FolderSource:
    """Reads image files by number."""

    files: Files
    names: PackedNames

    def read(self, entry: int, at_least: int | None = None) -> bytes:
        """The bytes of an image file: all, or the first `at_least`."""
        name = self.names[entry]
        if at_least is None:
            return self.files.read(name)
        with self.files.open(name) as file:
            return file.read(at_least)


def is_image(name: str) -> bool:
    """Whether the name of a file is that of an image; hidden files and those that macOS adds are not images."""
    hidden = name.rpartition("/")[2].startswith(".") or name.startswith("__MACOSX/")
    return name.lower().endswith(IMAGE_ENDINGS) and not hidden


def read_labels(content: bytes | None, names: PackedNames) -> Labels:
    """Labels from the content of dataset.json, or without one from the sub-folders."""
    if not len(names):
        return Labels()
    return labels_from_folders(names) if content is None else labels_from_json(content, names)
