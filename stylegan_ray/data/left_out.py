"""What a data set holds and training does not use: which names these are, counted by reason for messages."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from stylegan_ray.untrusted import BadFileError, printable

IMAGE_ENDINGS = (
    ".png", ".jpg", ".jpeg", ".jfif", ".webp", ".avif", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".pbm",
)  # fmt: skip
HEIF_ENDINGS = (".heic", ".heif", ".hif")
OTHER_IMAGE_ENDINGS = (
    ".jp2", ".j2k", ".jxl", ".tga", ".ico", ".psd", ".exr", ".hdr", ".dng", ".cr2", ".cr3", ".nef",
    ".arw", ".orf", ".rw2", ".raw", ".pcx", ".eps", ".svg", ".qoi", ".dds", ".pnm", ".jpe", ".dib", ".apng",
)  # fmt: skip
Endings = tuple[str, ...]
SHARD_ENDINGS = (
    ".parquet", ".tar", ".zip", ".tfrecords", ".tar.gz", ".tgz", ".lmdb", ".h5", ".hdf5", ".mdb", ".7z", ".rar",
)  # fmt: skip
SYSTEM_FOLDERS = frozenset(
    {
        "__macosx", "@eadir", "@tmp", "@recycle", "#recycle", "#snapshot", "lost+found", "__pycache__",
        "$recycle.bin", "system volume information", "@recently-snapshot", "network trash folder", "temporary items",
        "node_modules",
    }
)  # fmt: skip
"""Folders that file systems, storage servers and editors add."""
HIDDEN_PART = re.compile(rf"(?:^|/)(?:\.|(?:{'|'.join(map(re.escape, sorted(SYSTEM_FOLDERS)))})(?:/|\Z))")
"""Where a hidden part of a path begins, in small letters."""
PLAIN_NAMES = frozenset({"license", "licence", "readme", "copying", "notice", "authors", "makefile", "_success"})

HIDDEN = "in hidden or system folders"
LINKS = "links out of the folder (follow them with --data.follow_links)"
DEAD_LINKS = "links that lead nowhere or in a circle"
SPECIAL = "devices, pipes or sockets"
TOO_DEEP = "folders whose path is too long"
NO_ENDING = "files without an ending (add .png or what they are)"
HEIF = "HEIC images (read them with --data.extra_formats heif)"
NOT_READ = "images of formats that are not read (convert them to PNG or JPEG)"
SHARDS = "archives beside the images (name the file itself to use one)"
IMAGES = "images beside the files that hold the data set"
NO_FILES = "links, folders and the like in the archive that are named as images"
SPARSE = "sparse files (write the archive again without --sparse)"
MOST_NAMES = 3
LONGEST_PATH, MOST_FOLDERS = 4096, 256
"""Of a file in an archive; Linux takes paths of 4096 bytes."""


def image_endings(extra_formats: Sequence[str]) -> Endings:
    """Endings of image files where these formats (data.extra_formats) are read too."""
    return (*IMAGE_ENDINGS, *HEIF_ENDINGS) if "heif" in extra_formats else IMAGE_ENDINGS


class LeftOut:
    """Names that are not used: how many by reason, and the first of them."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.examples: dict[str, list[str]] = {}

    def add(self, reason: str, name: str) -> None:
        self.counts[reason] = self.counts.get(reason, 0) + 1
        examples = self.examples.setdefault(reason, [])
        if len(examples) < MOST_NAMES:
            examples.append(name)

    def add_unused(self, names: Iterable[str], used: Iterable[str], are_images: bool) -> None:
        """Adds those of the names that are not used and that a user may take for images.

        `are_images` says whether the data set consists of image files, not of archives of them.
        """
        used = set(used)
        for name in names:
            if name not in used and (reason := reason_of(name, are_images)):
                self.add(reason, name)

    def lines(self) -> list[str]:
        """One line for each reason."""
        return [
            f"{count} {reason}: {list_names(self.examples[reason], total=count)}"
            for reason, count in self.counts.items()
        ]


def reason_of(name: str, are_images: bool) -> str | None:
    """Why a name is left out where it could be meant as images; None for labels, texts and the like."""
    if is_hidden(name):
        return HIDDEN if name.lower().endswith(IMAGE_ENDINGS) else None
    last = name.rpartition("/")[2].lower()
    if last.endswith(IMAGE_ENDINGS):
        return None if are_images else IMAGES
    if last.endswith(HEIF_ENDINGS):
        return HEIF
    if last.endswith(OTHER_IMAGE_ENDINGS):
        return NOT_READ
    if last.endswith(SHARD_ENDINGS):
        return SHARDS if are_images else None
    return NO_ENDING if are_images and "." not in last and last not in PLAIN_NAMES else None


def check_name(name: str, where: str) -> None:
    """Raises BadFileError for a path in an archive that no file system takes, or that is of very many folders."""
    num_folders = name.count("/") + name.count("\\")
    if len(name) > LONGEST_PATH or num_folders > MOST_FOLDERS:
        raise BadFileError(
            f"{printable(where, most=500)}: the name {quoted(name)} is of {len(name)} characters and {num_folders} "
            f"folders, and may be of {LONGEST_PATH} and {MOST_FOLDERS}; write the archive again with shorter names"
        )


def is_hidden(name: str) -> bool:
    """Whether a file or one of its folders is hidden, or is of those that systems add."""
    return HIDDEN_PART.search(name.lower()) is not None


def is_hidden_part(part: str) -> bool:
    """Whether a file or folder is hidden, or is of those that systems add; `part` is its name without folders."""
    return part.startswith(".") or part.lower() in SYSTEM_FOLDERS


def quoted(name: str) -> str:
    """A name in quotes for messages: printable, and shortened where it is very long."""
    return repr(name) if len(name) <= 200 else f"{repr(name[:197])[:-1]}...'"


def list_names(names: list[str], most: int = MOST_NAMES, total: int | None = None) -> str:
    """The first few names, and how many more there are."""
    shown, total = ", ".join(map(quoted, names[:most])), len(names) if total is None else total
    return shown if total <= most else f"{shown} and {total - min(most, len(names))} more"


def joined_lines(lines: Iterable[str]) -> str:
    """Lines as one sentence, for a log."""
    return "; ".join(printable(line, most=2000) for line in lines)
