"""The data doctor: what the images of a data set are like, which are damaged, and how to train on them."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from stylegan_ray.data import formats
from stylegan_ray.data.decode import DEEP_MODES, explain_error, is_grey, is_transparent, to_eight_bits
from stylegan_ray.data.decode_policy import check_resolution
from stylegan_ray.data.errors import BadImage, DataError
from stylegan_ray.data.formats.protocol import Inspector
from stylegan_ray.data.index import IS_BAD, IS_COLOUR, IS_TRANSPARENT, Index
from stylegan_ray.data.labels import Labels, is_one_hot
from stylegan_ray.table import format_table
from stylegan_ray.untrusted import printable

CLASSES_LISTED, EXAMPLES = 20, 3
HASH_BYTES = 16


@dataclass(frozen=True)
class Examiner:
    """Describes images one by one, in any process."""

    inspect: Inspector

    def __call__(self, entries: np.ndarray) -> list[bytes]:
        """A description of each image, as JSON (see Findings.add)."""
        return [json.dumps([self.describe(entry) for entry in entries.tolist()]).encode()]

    def describe(self, entry: int) -> dict[str, Any]:
        """File format, mode, size, colour, transparency and a hash of the pixels; or what is wrong with the image."""
        try:
            stored = self.inspect(entry)
            image = stored.image
            return {
                "format": stored.file_format, "mode": stored.mode, "size": image.size[::-1], "hash": pixel_hash(image),
                "grey": is_grey(image), "transparent": is_transparent(image),
            }  # fmt: skip
        except BadImage as error:
            return {"problem": error.reason}
        except OSError as error:
            if error.errno is not None and not isinstance(error, PermissionError):
                raise
            return {"problem": explain_error(error)}
        except Exception as error:  # Pillow's readers raise nearly anything on damaged files
            return {"problem": explain_error(error)}


def pixel_hash(image: Image.Image) -> str:
    """A hash that is equal for images that look the same, whatever their file format and mode."""
    image = to_eight_bits(image) if image.mode in DEEP_MODES else image
    size = f"{image.height}x{image.width}:".encode()
    return hashlib.blake2b(size + image.convert("RGBA").tobytes(), digest_size=HASH_BYTES).hexdigest()


class Findings:
    """What an Examiner found in the images so far."""

    def __init__(self, index: Index) -> None:
        self.index = index
        self.formats, self.modes, self.sizes = Counter[str](), Counter[str](), Counter[str]()
        num = len(index.names)
        self.hashes = np.zeros((num, HASH_BYTES), dtype=np.uint8)
        self.height, self.width = (np.zeros(num, dtype=np.uint32) for _ in range(2))
        self.flags = np.zeros(num, dtype=np.uint8)
        self.bad: dict[int, str] = {}

    def add(self, entries: np.ndarray, pieces: Sequence[bytes]) -> None:
        """Adds the descriptions that an Examiner returned for some images."""
        for entry, facts in zip(entries.tolist(), json.loads(bytes(pieces[0])), strict=True):
            if "problem" in facts:
                self.bad[entry], self.flags[entry] = facts["problem"], IS_BAD
                continue
            self.height[entry], self.width[entry] = facts["size"]
            self.flags[entry] = (not facts["grey"]) * IS_COLOUR | facts["transparent"] * IS_TRANSPARENT
            self.hashes[entry] = np.frombuffer(bytes.fromhex(facts["hash"]), dtype=np.uint8)
            self.formats[facts["format"]] += 1
            self.modes[facts["mode"]] += 1
            self.sizes[f"{self.height[entry]}x{self.width[entry]}"] += 1

    def updated_index(self) -> Index:
        """The index with sizes, flags and problems as found."""
        return replace(self.index, height=self.height, width=self.width, flags=self.flags, bad=self.bad)

    def duplicates(self) -> list[list[int]]:
        """Groups of images with the same pixels."""
        good = np.flatnonzero(self.flags & IS_BAD == 0)
        if not len(good):
            return []
        keys = np.ascontiguousarray(self.hashes[good]).view(f"V{HASH_BYTES}")[:, 0]
        _, place, counts = np.unique(keys, return_inverse=True, return_counts=True)
        repeated = np.flatnonzero(counts[place] > 1)
        groups: dict[int, list[int]] = {}
        for i in repeated.tolist():
            groups.setdefault(int(place[i]), []).append(int(good[i]))
        return list(groups.values())


def recommend_keys(index: Index) -> dict[str, Any]:
    """Keys of the data section, as few as possible, with which these images can be trained on."""
    good = np.flatnonzero(index.flags & IS_BAD == 0)
    keys: dict[str, Any] = {}
    sizes = set(zip(index.height[good].tolist(), index.width[good].tolist(), strict=True))
    if len(sizes) > 1 or not all(map(_is_trainable, sizes)):
        side = int(np.median(np.minimum(index.height[good], index.width[good])))
        keys |= {"resolution": max(1 << (side.bit_length() - 1), 8), "crop": "center", "resize": "lanczos"}
    colour = index.flags[good] & IS_COLOUR != 0
    if colour.any() and not colour.all():
        keys["channels"] = 3
    if (index.flags[good] & IS_TRANSPARENT != 0).any():
        keys["alpha"] = "white"
    if len(good) < len(index.names):
        keys["on_bad_image"] = "skip"
    if formats.by_name(index.format).prefers_blocks:
        keys["shuffle"] = "blocks"
    if index.labels.values is not None:
        keys["cond"] = True
    return keys


def _is_trainable(size: tuple[int, int]) -> bool:
    try:
        check_resolution(size, "")
    except DataError:
        return False
    return True


def summarize(findings: Findings) -> list[tuple[str, list[str]]]:
    """What was found, as rows of a heading and its lines."""
    index = findings.updated_index()
    names, transparent = index.names, np.flatnonzero(index.flags & IS_TRANSPARENT).tolist()
    bad = [f"{printable(names[entry])}: {printable(index.bad[entry])}" for entry in sorted(index.bad)]
    groups = findings.duplicates()
    repeats = sum(len(group) - 1 for group in groups)
    return [
        ("Images", [f"{len(names)} ({index.format})"]),
        ("Formats", [_counts(findings.formats)]),
        ("Sizes", [_counts(findings.sizes) + (" (height x width)" if findings.sizes else "")]),
        ("Modes", [_counts(findings.modes)]),
        ("Transparent", [_some([printable(names[entry]) for entry in transparent])]),
        ("Duplicates", [_some([" = ".join(printable(names[e]) for e in group) for group in groups], repeats)]),
        ("Labels", list(_label_lines(index.labels))),
        ("Unreadable", [str(len(bad)) if bad else "none", *bad]),
    ]


def format_rows(rows: Iterable[tuple[str, list[str]]]) -> str:
    """Rows as text, with the headings in a column."""
    lines = [("" if number else heading, line) for heading, lines in rows for number, line in enumerate(lines)]
    return format_table(lines, head=False)


def _counts(counter: Counter[str], most: int = 6) -> str:
    parts = [f"{name} {count}" for name, count in counter.most_common(most)]
    more = len(counter) - most
    return ", ".join(parts) + (f" and {more} others" if more > 0 else "") or "none"


def _some(items: list[str], count: int | None = None) -> str:
    """The number of items and the first few of them."""
    if not items:
        return "none"
    more = f"; and {len(items) - EXAMPLES} more" if len(items) > EXAMPLES else ""
    return f"{len(items) if count is None else count}: {'; '.join(items[:EXAMPLES])}{more}"


def _label_lines(labels: Labels) -> Iterable[str]:
    values = labels.values
    if values is None:
        yield f"none: {labels.problem}"
    elif values.ndim == 2 and not is_one_hot(values):
        yield f"vectors of {values.shape[1]} numbers"
    else:
        classes = values if values.ndim == 1 else values.argmax(axis=1)
        counts = np.bincount(classes, minlength=labels.size)
        yield f"{len(counts)} classes of {counts.min()} to {counts.max()} images, median {np.median(counts):g}"
        for number, count in list(enumerate(counts.tolist()))[:CLASSES_LISTED]:
            names = labels.class_names or ()
            name = printable(names[number], most=60) if number < len(names) else ""
            yield f"  {number:<4d} {count:>8d} {name}".rstrip()
        if len(counts) > CLASSES_LISTED:
            yield f"  and {len(counts) - CLASSES_LISTED} more"
