"""What the doctor found, for people and as JSON, and the keys with which the images can be trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from stylegan_ray.data import formats
from stylegan_ray.data.decode_policy import check_resolution
from stylegan_ray.data.doctor.doubts import KINDS, Kind, Reasons
from stylegan_ray.data.doctor.findings import Findings
from stylegan_ray.data.errors import DataError
from stylegan_ray.data.index import IS_BAD, IS_COLOR, IS_TRANSPARENT, Index
from stylegan_ray.data.labels import Labels, is_one_hot
from stylegan_ray.table import format_table
from stylegan_ray.untrusted import printable

CLASSES_LISTED, SIZES_LISTED, EXAMPLES, BAR = 20, 6, 3, 20
SIZES_IN_JSON, LONGEST = 1000, 1 << 16

Doubts = Mapping[str, Reasons]


def recommend_keys(index: Index) -> dict[str, Any]:
    """Keys of the data section, as few as possible, with which these images can be trained on."""
    good = np.flatnonzero(index.flags & IS_BAD == 0)
    keys: dict[str, Any] = {}
    sizes = set(zip(index.height[good].tolist(), index.width[good].tolist(), strict=True))
    if len(sizes) > 1 or not all(map(is_trainable, sizes)):
        side = int(np.median(np.minimum(index.height[good], index.width[good])))
        keys |= {"resolution": max(1 << (side.bit_length() - 1), 8), "crop": "center", "resize": "lanczos"}
    color = index.flags[good] & IS_COLOR != 0
    if color.any() and not color.all():
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


def is_trainable(size: tuple[int, int]) -> bool:
    """Whether networks can be built for images of this (height, width)."""
    try:
        check_resolution(size, "")
    except DataError:
        return False
    return True


def summarize(findings: Findings, doubts: Doubts) -> list[tuple[str, list[str]]]:
    """What was found, as rows of a heading and its lines."""
    index = findings.index
    return [
        ("Images", [f"{len(index.names)} ({index.format})"]),
        ("Formats", [_counts(_lengths(findings.formats))]),
        ("Sizes", list(_size_lines(findings))),
        ("Modes", [_counts(_lengths(findings.modes)) + _profiles(findings)]),
        ("Labels", list(_label_lines(index.labels))),
        *((kind.heading, _doubt_lines(findings, kind, doubts[kind.name])) for kind in reversed(KINDS)),
    ]


def format_rows(rows: Iterable[tuple[str, list[str]]]) -> str:
    """Rows as text, with the headings in a column."""
    lines = [("" if number else heading, line) for heading, lines in rows for number, line in enumerate(lines)]
    return format_table(lines, head=False)


def report(findings: Findings, doubts: Doubts, path: str) -> dict[str, Any]:
    """Everything that was found, for JSON."""
    index, names = findings.index, findings.index.names
    keys = recommend_keys(findings.updated_index) if len(findings.good) else {}
    return {
        "path": path,
        "format": index.format,
        "images": len(names),
        "formats": _lengths(findings.formats),
        "modes": _lengths(findings.modes),
        "profiles": dict(findings.profiles),
        "sizes": {f"{h}x{w}": count for (h, w), count in findings.sizes.most_common(SIZES_IN_JSON)},
        "sizes_by_side": {f"{low}-{high}": count for (low, high), count in sizes_by_side(findings).items()},
        "frames": _by_number(findings.traits["num_frames"][findings.good]),
        "orientations": _by_number(findings.traits["orientation"][findings.good]),
        "bits": _by_number(findings.traits["bits"][findings.good]),
        "labels": _labels_report(index.labels),
        "doubts": {
            kind.name: [{"name": names[entry], "why": why} for entry, why in doubts[kind.name].items()]
            for kind in KINDS
        },
        "duplicates": [[names[entry] for entry in group] for group in findings.duplicates],
        "near_duplicates": [[names[entry] for entry in group] for group in findings.near_duplicates],
        "train": {"data": keys},
    }  # fmt: skip


def sizes_by_side(findings: Findings) -> dict[tuple[int, int], int]:
    """How many images have a shorter side of 1, 2 to 3, 4 to 7, ... pixels, without empty ranges at the ends."""
    traits = findings.traits[findings.good]
    sides = np.minimum(traits["height"], traits["width"])
    if not len(sides):
        return {}
    counts = np.bincount(np.frexp(sides)[1] - 1)
    first = int(np.flatnonzero(counts)[0])
    return {(1 << power, (2 << power) - 1): int(counts[power]) for power in range(first, len(counts))}


def _doubt_lines(findings: Findings, kind: Kind, reasons: Reasons) -> list[str]:
    names = findings.index.names
    if kind.name == "unreadable":
        return [str(len(reasons) or "none"), *(printable(f"{names[e]}: {why}", LONGEST) for e, why in reasons.items())]
    if kind.name == "duplicate":
        shown = [" = ".join(names[entry] for entry in group) for group in findings.duplicates]
    elif kind.name == "near-duplicate":
        shown = [" ~ ".join(names[entry] for entry in group) for group in findings.near_duplicates]
    elif kind.name == "transparent":
        shown = [names[entry] for entry in list(reasons)[:EXAMPLES]] + [""] * (len(reasons) - EXAMPLES)
    else:
        some = list(reasons.items())[:EXAMPLES]
        shown = [f"{names[entry]} ({why})" for entry, why in some] + [""] * (len(reasons) - EXAMPLES)
    return [printable(_some(shown, len(reasons)), LONGEST)]


def _lengths(groups: Mapping[str, Any]) -> dict[str, int]:
    return {name: len(entries) for name, entries in sorted(groups.items(), key=lambda item: -len(item[1]))}


def _by_number(values: np.ndarray) -> dict[str, int]:
    return {str(value): count for value, count in sorted(Counter(values.tolist()).items())}


def _counts(counts: Mapping[str, int], most: int = SIZES_LISTED) -> str:
    parts = [f"{name} {count}" for name, count in list(counts.items())[:most]]
    more = len(counts) - most
    return ", ".join(parts) + (f" and {more} others" if more > 0 else "") or "none"


def _profiles(findings: Findings) -> str:
    return f" (ICC profiles: {_counts(findings.profiles)})" if findings.profiles else ""


def _some(items: list[str], count: int) -> str:
    """The number of images and the first few items."""
    if not items:
        return "none"
    more = f"; and {len(items) - EXAMPLES} more" if len(items) > EXAMPLES else ""
    return f"{count}: {'; '.join(items[:EXAMPLES])}{more}"


def _size_lines(findings: Findings) -> Iterable[str]:
    """The most frequent sizes; with many of them also how many images have which shorter side."""
    sizes = {f"{height}x{width}": count for (height, width), count in findings.sizes.most_common()}
    yield _counts(sizes) + (" (height x width)" if sizes else "")
    if len(sizes) > SIZES_LISTED:
        ranges = sizes_by_side(findings)
        for (low, high), count in ranges.items():
            yield f"  shorter side {low:>5d} to {high:<5d} {count:>8d} {_bar(count, ranges.values())}".rstrip()


def _label_lines(labels: Labels) -> Iterable[str]:
    counts = class_counts(labels)
    if labels.values is None:
        yield f"none: {printable(labels.problem, LONGEST)}"
    elif counts is None:
        yield f"vectors of {labels.values.shape[1]} numbers"
    else:
        yield f"{len(counts)} classes of {counts.min()} to {counts.max()} images, median {np.median(counts):g}"
        for number, count in list(enumerate(counts.tolist()))[:CLASSES_LISTED]:
            line = f"  {number:<4d} {count:>8d} {_bar(count, counts):{BAR}s} {class_name(labels, number)}"
            yield printable(line.rstrip())
        if len(counts) > CLASSES_LISTED:
            yield f"  and {len(counts) - CLASSES_LISTED} more"


def _labels_report(labels: Labels) -> dict[str, Any]:
    counts = class_counts(labels)
    if labels.values is None:
        return {"kind": "none", "problem": labels.problem}
    if counts is None:
        return {"kind": "vectors", "size": labels.size}
    named = [{"class": i, "name": class_name(labels, i), "images": count} for i, count in enumerate(counts.tolist())]
    return {"kind": "classes", "classes": named}


def class_counts(labels: Labels) -> np.ndarray | None:
    """How many images each class has, int [classes]; None where labels are not classes."""
    values = labels.values
    if values is None or (values.ndim == 2 and not is_one_hot(values)):
        return None
    return np.bincount(values if values.ndim == 1 else values.argmax(axis=1), minlength=labels.size)


def class_name(labels: Labels, number: int) -> str:
    """The name of a class; empty where it has none."""
    return labels.class_names[number] if labels.class_names and number < len(labels.class_names) else ""


def _bar(count: int, counts: Iterable[int]) -> str:
    """A bar of a histogram; the largest count has BAR characters."""
    return "#" * round(BAR * count / max(max(counts), 1))
