"""What a data set holds and training does not use: which names these are, counted by reason for messages."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import islice

from stylegan_ray.untrusted import BadFileError, printable

IMAGE_ENDINGS = (
    ".png", ".jpg", ".jpeg", ".jfif", ".webp", ".avif", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".pbm",
)  # fmt: skip
HEIF_ENDINGS = (".heic", ".heif", ".hif")
OTHER_IMAGE_ENDINGS = (
    ".jp2", ".j2k", ".jxl", ".tga", ".ico", ".psd", ".exr", ".hdr", ".dng", ".cr2", ".cr3", ".nef",
    ".arw", ".orf", ".rw2", ".raw", ".pcx", ".eps", ".svg", ".qoi", ".dds", ".pnm", ".jpe", ".dib", ".apng",
    ".mpo", ".pjpeg", ".pjp", ".jif", ".jfi", ".jpg2", ".jpeg2000", ".jpf", ".jpx", ".jpm", ".j2c", ".jpc", ".jxr",
    ".wdp", ".hdp", ".avifs", ".heics", ".pngx", ".svgz", ".xbm", ".xpm", ".pam", ".pfm", ".sgi", ".ras", ".wbmp",
    ".raf", ".pef", ".srw", ".x3f", ".rwl", ".3fr", ".iiq", ".kdc", ".nrw", ".crw", ".sr2", ".erf", ".mrw", ".xcf",
    ".bpg", ".flif", ".fits", ".dcm", ".icns", ".cur", ".mng", ".jng",
)  # fmt: skip
Endings = tuple[str, ...]
LABEL_FILE = "dataset.json"
TABLE_ENDING = ".parquet"
"""Of archives that may hold no images but what is known of them."""
SHARD_ENDINGS = (TABLE_ENDING, ".tar", ".zip", ".h5", ".hdf5", ".mat", ".mdb")
ARROW_ENDING = ".arrow"
COMPRESSED_ENDINGS = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".7z", ".rar")
TFRECORD_ENDING, TFRECORD_LABELS_ENDING = ".tfrecords", ".labels"
OTHER_TFRECORD = re.compile(r"\.tfrec(?:ord)?s?(?![a-z])")
"""In names of TFRecords of other programs, such as x.tfrecord-00000-of-00005."""
LOCK_OF_LMDB = "lock.mdb"
"""A file beside data.mdb, which holds no data."""
SYSTEM_FOLDERS = frozenset(
    {
        "__macosx", "@eadir", "@tmp", "@recycle", "#recycle", "#snapshot", "lost+found", "__pycache__",
        "$recycle.bin", "system volume information", "@recently-snapshot", "network trash folder", "temporary items",
        "node_modules", "site-packages", "venv", "wandb", "mlruns", "lightning_logs", "cvs", "thumbnails", "_thumbs",
        "@__thumb", "@sharebin", "@sharesnap", "@appstore", "~snapshot", "recycler", "lost.dir",
        *(f"found.{number:03d}" for number in range(10)),
    }
)  # fmt: skip
"""Folders that file systems, storage servers, editors and trackers add."""
HIDDEN_PART = re.compile(rf"(?:^|/)(?:\.|(?:{'|'.join(map(re.escape, sorted(SYSTEM_FOLDERS)))})(?:/|\Z))")
"""Where a hidden part of a path begins, in small letters."""
DOT_FOLDER = re.compile(r"(?:^|[/\\])\.\.?[/\\]")
LEADING_DOTS = re.compile(r"(?:\.[/\\])*")
"""What `tar -c .` writes before each name."""
MORE_BEHIND = re.compile(rf"(?:{'|'.join(map(re.escape, IMAGE_ENDINGS))})[^a-z0-9]")
"""The ending of an image with more behind it, as downloads and backups have: a.jpg?width=100, a.jpg_large, a.png~."""
TEXT_ENDINGS = (
    ".txt", ".json", ".jsonl", ".xml", ".csv", ".tsv", ".yaml", ".yml", ".toml", ".md", ".html", ".htm", ".caption",
    ".tags", ".xmp", ".md5", ".sha1", ".sha256", ".npy", ".npz", ".pt", ".aae", ".pp3",
)  # fmt: skip
"""Of files that describe an image, such as a.png.txt."""
ENDING = re.compile(r"\.[^.]*[^.0-9]")
"""An ending that says what a file is, unlike those of `x.` and `x.1`."""
PLAIN_NAMES = frozenset({"license", "licence", "readme", "copying", "notice", "authors", "makefile", "_success"})

HIDDEN = "in hidden or system folders"
DOT_FOLDERS = "in folders named . or .. (write the archive again with plain paths)"
LINKS = "links out of the folder (follow them with --data.follow_links)"
DEAD_LINKS = "links that lead nowhere or in a circle"
SPECIAL = "devices, pipes or sockets"
TOO_DEEP = "folders whose path is too long"
NO_ENDING = "files without an ending (add .png or what they are)"
ODD_ENDING = "files with more behind the ending of an image (rename them so that they end in it)"
BY_CONTENT = "images whose ending is not that of an image (rename them to .jpg, .png or what they are)"
HEIF = "HEIC images (read them with --data.extra_formats heif)"
NOT_READ = "images of formats that are not read (convert them to PNG or JPEG)"
SHARDS = "archives beside the images (name the file itself to use one)"
COMPRESSED = "compressed archives, which are not read (unpack them)"
ARROW = "Arrow files, which are not read (write them as Parquet, with `to_parquet` of Hugging Face's Dataset)"
TFRECORDS = "TFRecords that are empty or in a sub-folder (give the path of the folder that holds them)"
OTHER_TFRECORDS = "TFRecords of another ending (name them .tfrecords if they hold pixels, as those of StyleGAN)"
TFRECORD_LABELS = f"label files of TFRecords ({TFRECORD_LABELS_ENDING}), which images in files do not use"
LABEL_FILES = "label files that lie beside some of the images only (write one for all, or give the path of one folder)"
ONE_FILE = "data sets beside the one that is read (give the path of the file itself to read it)"
ANYWHERE = ((HEIF_ENDINGS, HEIF), (OTHER_IMAGE_ENDINGS, NOT_READ), (TFRECORD_ENDING, TFRECORDS))
BESIDE_IMAGES = (
    (SHARD_ENDINGS, SHARDS), (COMPRESSED_ENDINGS, COMPRESSED), (ARROW_ENDING, ARROW),
    (TFRECORD_LABELS_ENDING, TFRECORD_LABELS),
)  # fmt: skip
BESIDE_SHARDS = (
    ((".h5", ".hdf5", ".mat", ".tar", ".zip"), ONE_FILE), (COMPRESSED_ENDINGS, COMPRESSED), (ARROW_ENDING, ARROW),
)  # fmt: skip
"""Endings and why such files are left out: of any data set, of one of image files, and of others."""
MAY_HOLD_IMAGES = frozenset({SHARDS, COMPRESSED, ARROW, TFRECORDS, OTHER_TFRECORDS})
"""Why archives are left out that may be the data set."""
BEGINNINGS = re.compile(
    rb"\x89PNG\r\n|\xff\xd8\xff|GIF8|RIFF....WEBP|II\*\0|MM\0\*|....ftyp(?:avi|hei|hev|mif1)|\xff\x0a|\0\0\0\x0cJXL ",
    re.DOTALL,
)
"""How files of images begin: PNG, JPEG, GIF, WebP, TIFF, AVIF and HEIC, JPEG XL."""
LONGEST_BEGINNING, MOST_ENDINGS = 16, 8
"""Bytes that are read to see whether a file is an image, and of so many endings that say nothing at most."""
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

    def add_images_by_content(self, names: Iterable[str], head: Callable[[str, int], bytes]) -> None:
        """Adds files that are images by their first bytes and neither by name nor left out for another reason.

        `head` reads the first bytes of a file. One file of each ending is looked at, for a few endings.
        """
        by_ending: dict[str, list[str]] = {}
        for name in names:
            if not is_explained(name):
                by_ending.setdefault(os.path.splitext(name.lower())[1], []).append(name)
        for same in list(by_ending.values())[:MOST_ENDINGS]:
            with suppress(OSError, BadFileError):  # it may not be read, or is there no more
                if BEGINNINGS.match(head(same[0], LONGEST_BEGINNING)):
                    for name in same:
                        self.add(BY_CONTENT, name)

    def add_label_files(self, used: str | None, names: Iterable[str], images: Iterable[str]) -> None:
        """Adds files of labels beside images, where none is used that lies beside all of them."""
        found = [name for name in names if _last(name) == LABEL_FILE and not is_hidden(name)] if used is None else []
        folders = {os.path.dirname(image.replace("\\", "/")) + "/" for image in images} if found else set()
        for name in found:
            own = name[: -len(LABEL_FILE)].replace("\\", "/")
            if any(folder.startswith(own) for folder in folders):
                self.add(LABEL_FILES, name)

    def lines(self) -> list[str]:
        """One line for each reason."""
        return [
            f"{count} {reason}: {list_names(self.examples[reason], total=count)}"
            for reason, count in self.counts.items()
        ]


def reason_of(name: str, are_images: bool) -> str | None:
    """Why a name is left out where it could be meant as images; None for labels, texts and the like."""
    if is_hidden(name):
        if DOT_FOLDER.search(name) and name.lower().endswith(IMAGE_ENDINGS):
            return DOT_FOLDERS
        return HIDDEN if name.lower().endswith(IMAGE_ENDINGS) else None
    last = name.rpartition("/")[2].lower()
    if last.endswith(IMAGE_ENDINGS):
        return None if are_images else IMAGES
    if reason := _by_ending(last, ANYWHERE):
        return reason
    return _reason_beside_images(last) if are_images else _by_ending(last, BESIDE_SHARDS)


def _last(name: str) -> str:
    """The name of a file without its folders, in small letters."""
    return name.replace("\\", "/").rpartition("/")[2].lower()


def is_explained(name: str) -> bool:
    """Whether the name of a file says that it is an image, a text or the like, or left out for some reason."""
    last = name.rpartition("/")[2].lower()
    is_known = last.endswith((*IMAGE_ENDINGS, *TEXT_ENDINGS)) or "." not in last
    return is_known or is_hidden(name) or reason_of(name, are_images=True) is not None


def _by_ending(last: str, reasons: Sequence[tuple[str | Endings, str]]) -> str | None:
    return next((reason for endings, reason in reasons if last.endswith(endings)), None)


def _reason_beside_images(last: str) -> str | None:
    """As `reason_of`, for names that are those of no image, in a data set of image files; in small letters."""
    if last == LOCK_OF_LMDB:
        return None
    if reason := _by_ending(last, BESIDE_IMAGES):
        return reason
    if OTHER_TFRECORD.search(last):
        return OTHER_TFRECORDS
    if MORE_BEHIND.search(last) and not last.endswith(TEXT_ENDINGS):
        return ODD_ENDING
    return NO_ENDING if not ENDING.search(last) and last not in PLAIN_NAMES else None


PART_OF = re.compile(r"(.*?)([0-9]{1,9})-of-([0-9]{1,9})(?:-[0-9a-f]{8,})?(.*)", re.DOTALL)
"""A name as a-00000-of-00002.tar, where each part may have a checksum in its name."""


def missing_parts(names: Iterable[str]) -> list[str]:
    """A line about each file of which parts are there, such as a-00000-of-00002.tar, and others are not."""
    there: dict[tuple[str, str, str], dict[int, str]] = {}
    for name in names:
        if match := PART_OF.fullmatch(name):
            there.setdefault((match[1], match[3], match[4]), {})[int(match[2])] = match[2]
    lines = []
    for (begin, total, end), parts in there.items():
        first = 1 if 0 not in parts and int(total) in parts else 0
        wanted = range(first, first + int(total))
        absent = (number for number in wanted if number not in parts)
        width = len(next(iter(parts.values())))
        shown = [f"{begin}{number:0{width}d}-of-{total}{end}" for number in islice(absent, MOST_NAMES)]
        if shown:
            num = int(total) - sum(number in wanted for number in parts)
            lines.append(f"{num} of {int(total)} parts are missing: {list_names(shown, total=num)}")
    return lines


def check_name(name: str, where: str) -> None:
    """Raises BadFileError for a path in an archive that no file system takes, or that is of very many folders."""
    num_folders = name.count("/") + name.count("\\")
    if len(name) > LONGEST_PATH or num_folders > MOST_FOLDERS:
        raise BadFileError(
            f"{printable(where, most=500)}: the name {quoted(name)} is of {len(name)} characters and {num_folders} "
            f"folders, and may be of {LONGEST_PATH} and {MOST_FOLDERS}; write the archive again with shorter names"
        )


def without_dot(name: str) -> str:
    """The name of a file in an archive without a leading "./"."""
    return name[LEADING_DOTS.match(name).end() :]  # type: ignore[union-attr] - it matches nothing, too


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
