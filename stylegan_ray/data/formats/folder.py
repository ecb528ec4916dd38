"""A folder of image files, at any depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from stylegan_ray.data.files import FileInfo, Files
from stylegan_ray.data.formats.protocol import EncodedFormat
from stylegan_ray.data.index import Index, Progress
from stylegan_ray.data.labels import LABEL_FILE, LabelFile, Labels, labels_from_folders, labels_from_json
from stylegan_ray.data.left_out import IMAGE_ENDINGS, Endings, is_hidden
from stylegan_ray.data.packed_names import PackedNames
from stylegan_ray.data.scan import Reading, scan
from stylegan_ray.data.splits import Parents

__all__ = ["IMAGE_ENDINGS", "Folder", "is_image", "label_file_among", "read_labels"]


class Folder(EncodedFormat):
    """Image files, with labels in dataset.json or one sub-folder per class."""

    name = "folder"

    def select(self, listing: Sequence[FileInfo], endings: Endings = IMAGE_ENDINGS) -> list[FileInfo]:
        images = [info for info in listing if is_image(info.name, endings)]
        labels = label_file_among([info.name for info in listing], [info.name for info in images])
        return sorted([*images, *(info for info in listing if info.name == labels)]) if images and labels else images

    def build_index(
        self, files: Files, infos: Sequence[FileInfo], progress: Progress | None, reading: Reading | None = None
    ) -> Index:
        names = PackedNames.pack(info.name for info in infos if not is_label_file(info.name))
        label_file = next((info.name for info in infos if is_label_file(info.name)), None)
        scanned = scan(FolderSource(files, names).read, names, progress, reading)
        content = files.read(label_file) if label_file else None
        labels = read_labels(content, names, label_file or "", reading.parents if reading else None)
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
        return self.files.read(name) if at_least is None else self.files.head(name, at_least)


def is_image(name: str, endings: Endings = IMAGE_ENDINGS) -> bool:
    """Whether the name of a file is that of an image; hidden files and those of system folders are not images."""
    return name.lower().endswith(endings) and not is_hidden(name)


def is_label_file(name: str) -> bool:
    """Whether a file is named as one of labels, in any case."""
    return name.lower().endswith(LABEL_FILE)


def label_file_among(names: Sequence[str], images: Sequence[str]) -> str | None:
    """The dataset.json at the root, or in the folder that holds all the images; None where there is none.

    Of those whose names differ in case only, the one in small letters is taken.
    """
    found = [name for name in names if name.replace("\\", "/").rpartition("/")[2].lower() == LABEL_FILE]
    for name in sorted(found, key=lambda name: (len(name), not name.endswith(LABEL_FILE))):
        folder = name[: -len(LABEL_FILE)]
        if all(image.startswith(folder) for image in images):
            return name
    return None


def read_labels(
    content: bytes | None, names: PackedNames, label_file: str = LABEL_FILE, parents: Parents | None = None
) -> Labels:
    """Labels from the content of dataset.json, or without one from the sub-folders, of which `parents` has splits."""
    if not len(names):
        return Labels()
    if content is None:
        return labels_from_folders(names, parents=parents)
    labels = labels_from_json(LabelFile(content, names, label_file.replace("\\", "/")[: -len(LABEL_FILE)]))
    return labels if label_file.endswith(LABEL_FILE) else replace(labels, is_late=True)
