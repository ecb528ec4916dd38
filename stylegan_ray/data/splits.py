"""Splits of a data set: which files or images belong to train, test or validation, and which are used."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from stylegan_ray.data.errors import DataError
from stylegan_ray.data.left_out import quoted

SPLITS = {
    "train": "train", "training": "train", "test": "test", "testing": "test", "validation": "validation",
    "valid": "validation", "val": "validation", "dev": "validation", "eval": "validation",
}  # fmt: skip
"""Names of splits, and what they mean."""
ALL = "all"
WORD = re.compile(r"[A-Za-z]+")


def split_named(word: str) -> str | None:
    """The split of this name."""
    return SPLITS.get(word.lower())


def split_of_file(name: str) -> str | None:
    """The split of an archive: a folder of its name, or the first or last word of the name (train-00001.parquet)."""
    *folders, last = name.split("/")
    words = WORD.findall(last.partition(".")[0])
    return next((split for part in [*folders, *words[:1], *words[-1:]] if (split := split_named(part))), None)


def splits_of_images(names: Sequence[str]) -> list[str | None]:
    """The split of each image where the topmost folders that differ are named as splits, and hold all images."""
    parts = [name.replace("\\", "/").split("/") for name in names]
    depth = 0
    while parts and all(len(part) > depth + 1 and part[depth] == parts[0][depth] for part in parts):
        depth += 1
    splits = [split_named(part[depth]) if len(part) > depth + 1 else None for part in parts]
    return splits if None not in splits else [None] * len(names)


def choose_split(splits: Sequence[str | None], wanted: str | None, what: str) -> tuple[np.ndarray, str]:
    """Which of the items are used bool [n], and what to say about the others; `what` names the items.

    Items without a split are used where no split is asked for. Raises DataError where there is none to use.
    """
    counts = Counter(split for split in splits if split)
    usual = "train" if len(counts) > 1 and "train" in counts else ALL
    chosen = usual if wanted is None else wanted
    if chosen == ALL:
        return np.ones(len(splits), dtype=bool), ""
    chosen = split_named(chosen) or chosen
    found = ", ".join(f"{split} ({count} {what})" for split, count in sorted(counts.items()))
    if chosen not in counts:
        raise DataError(
            f"data.split={quoted(wanted or '')} is not among the splits of the data: {found or 'it has none'}; "
            "leave it out, or give one of them or `all`"
        )
    used = np.array([split == chosen or (split is None and wanted is None) for split in splits])
    if wanted is not None or used.all():
        return used, ""
    return used, f"of the splits {found} only {chosen} is used (choose with --data.split, which may be `all`)"
