"""Folders of CelebA, whose labels are the attributes in its text file; only `prepare_data` reads them.

Training reads such a folder as one of images without labels.
"""

from __future__ import annotations

import codecs
import os
from collections import Counter
from collections.abc import Sequence

import numpy as np

from stylegan_ray.credentials import logger_of
from stylegan_ray.data.errors import DataError
from stylegan_ray.data.files import FileInfo, Files
from stylegan_ray.data.formats.folder import Folder, FolderSource, is_image
from stylegan_ray.data.formats.protocol import the_one
from stylegan_ray.data.index import Index, Progress
from stylegan_ray.data.labels import Labels
from stylegan_ray.data.left_out import IMAGE_ENDINGS, Endings, list_names, quoted
from stylegan_ray.data.packed_names import PackedNames
from stylegan_ray.data.scan import Reading, scan

ATTRIBUTE_FILES = ("list_attr_celeba.txt", "list_attr_celeba.csv", "CelebAMask-HQ-attribute-anno.txt")
MAX_BYTES = 1 << 28
MAX_ATTRIBUTES = 1 << 10
BLANKS = bytes.maketrans(b",;\"'", b"    ")
"""What separates or encloses words in tables."""

log = logger_of(__name__)


class CelebA(Folder):
    """Image files at any depth, and a file of attributes of which each is -1 or 1 for an image."""

    name = "celeba"
    description = "a folder of CelebA"
    is_trainable = False

    def select(self, listing: Sequence[FileInfo], endings: Endings = IMAGE_ENDINGS) -> list[FileInfo]:
        attributes = [info for info in listing if _base(info.name) in ATTRIBUTE_FILES]
        images = [info for info in listing if is_image(info.name, endings)] if attributes else []
        return the_one(attributes, "a file of attributes") + images if images else []

    def build_index(
        self, files: Files, infos: Sequence[FileInfo], progress: Progress | None, reading: Reading | None = None
    ) -> Index:
        attribute_file = infos[0]
        if attribute_file.size > MAX_BYTES:
            raise DataError(f"data.path={files.root}/{attribute_file.name} has more than {MAX_BYTES} bytes")
        where = f"data.path={files.root}/{attribute_file.name}"
        attributes, rows = parse_attributes(files.read(attribute_file.name), where)
        images = [info.name for info in infos[1:]]
        known = [name for name in images if _stem(name) in rows]
        if len({_stem(name) for name in known}) < len(known):
            raise DataError(
                f"{where}: several images have the name of one line, as in cropped and uncropped copies; give a folder "
                "with one of them and the attribute file"
            )
        if left_out := [name for name in images if _stem(name) not in rows]:
            log.warning(
                "Left out: %d images without a line in %s, %s",
                len(left_out),
                quoted(attribute_file.name),
                list_names(left_out),
            )
        names = PackedNames.pack(known)
        scanned = scan(FolderSource(files, names).read, names, progress, reading)
        values = np.array([rows[_stem(name)] for name in known], dtype=np.float32).reshape(len(known), len(attributes))
        return Index(self.name, names, {}, Labels(values, class_names=attributes), **vars(scanned))


def parse_attributes(content: bytes, where: str) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """Names of the attributes, and 0 or 1 for each by the stem of the image's name; raises DataError.

    The text file has the number of images, the names, then a line per image; the one of Kaggle is a table with commas,
    whose words may be in quotes.
    """
    text = content.removeprefix(codecs.BOM_UTF8).splitlines()
    lines = [(number, words) for number, line in enumerate(text, 1) if (words := line.translate(BLANKS).split())]
    is_table = bool(lines) and len(lines[0][1]) > 1
    head, body = (lines[0][1][1:], lines[1:]) if is_table else ((lines[1][1] if lines[1:] else []), lines[2:])
    if not 0 < len(head) <= MAX_ATTRIBUTES or not body:
        raise DataError(f"{where} does not begin with the names of the attributes; download it again")
    if twice := [word for word, times in Counter(head).items() if times > 1]:
        raise DataError(f"{where} names the attribute {list_names(_texts(twice))} twice; rename or remove one")
    rows = {}
    for number, (image, *values) in body:
        if other := next((value for value in values if value not in (b"-1", b"1")), None):
            raise DataError(
                f"{where}, line {number}: an attribute is {quoted(_texts([other])[0])}, and must be -1 or 1; "
                f"download it again, or mend the line"
            )
        if len(values) != len(head):
            raise DataError(
                f"{where}, line {number}: the name of an image has {len(values)} values, and must have {len(head)} of "
                f"-1 or 1, one for each attribute ({list_names(_texts(head))}); download it again, or mend the line"
            )
        stem = _stem(image.decode("utf-8", "surrogateescape"))
        if stem in rows:
            raise DataError(f"{where}, line {number}: {stem!r} is there twice; remove one of the lines")
        rows[stem] = np.array([value == b"1" for value in values], dtype=np.uint8)
    stated = lines[0][1][0]
    if not is_table and stated.isdigit() and int(stated) != len(body):
        raise DataError(
            f"{where} says that it has {int(stated)} images and has {len(body)} lines of them; download it again, or "
            "mend its first line"
        )
    return tuple(_texts(head)), rows


def _texts(words: Sequence[bytes]) -> list[str]:
    return [word.decode("utf-8", "replace") for word in words]


def _base(path: str) -> str:
    return path.rpartition("/")[2]


def _stem(path: str) -> str:
    return os.path.splitext(_base(path))[0]
