"""Splits of a data set: which files or images belong to train, test or validation, and which are used."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np

from stylegan_ray.data.errors import DataError
from stylegan_ray.data.left_out import quoted
from stylegan_ray.untrusted import printable

SPLITS = {
    "train": "train", "training": "train", "test": "test", "testing": "test", "validation": "validation",
    "valid": "validation", "val": "validation", "dev": "validation", "eval": "validation",
}  # fmt: skip
"""Names of splits, and what they mean."""
ALL = "all"
OTHER = "other"
"""Where images are that are in none of the folders beside those of the splits."""
WORD = re.compile(r"[A-Za-z]+?(?=[^A-Za-z]|(?<=[a-z])[A-Z](?![A-Za-z])|$)")
"""Letters, without a last capital of their own, as in trainA."""


def split_named(word: str) -> str | None:
    """The split of this name."""
    return SPLITS.get(word.lower())


def split_of_file(name: str) -> str | None:
    """The split of an archive: that of a folder, or of the first or last word of its name (train-00001.parquet)."""
    *folders, last = name.split("/")
    found = (*map(split_of_folder, folders), *map(split_named, _ends(last.partition(".")[0])))
    return next((split for split in found if split), None)


def split_of_folder(name: str) -> str | None:
    """The split of a folder: of its name, or its first or last word (train2017, seg_train, trainA, split=train)."""
    return next((split for part in [name, *_ends(name)] if (split := split_named(part))), None)


def are_splits(folders: Collection[str]) -> bool:
    """Whether folders side by side are splits: all are named so, or train and another one among others.

    Where words are added, two splits have the same (train2017 and val2017; not "bullet train" and "test tube").
    """
    named = {split for folder in folders if (split := split_named(folder))}
    if "train" in named and len(named) > 1:
        return True
    added = Counter(word for word, _ in {(_added(folder), split_of_folder(folder)) for folder in folders})
    return all(map(split_of_folder, folders)) and max(added.values()) > 1


def _added(folder: str) -> str:
    """What the name of a folder has besides the word that names the split."""
    word = next((word for word in _ends(folder) if split_named(word)), folder)
    return folder.replace(word, "", 1).lower()


def splits_of_images(names: Sequence[str]) -> list[str | None]:
    """The split of each image where the topmost folders that differ are splits; folders beside them are splits, too."""
    parts = [name.replace("\\", "/").split("/") for name in names]
    depth = 0
    while parts and all(len(part) > depth + 1 and part[depth] == parts[0][depth] for part in parts):
        depth += 1
    folders = [part[depth] if len(part) > depth + 1 else "" for part in parts]
    if not folders or not are_splits(set(folders)):
        return [None] * len(names)
    return [split_of_folder(folder) or folder or OTHER for folder in folders]


def _ends(name: str) -> list[str]:
    """The first and the last word of a name."""
    words = WORD.findall(name)
    return [*words[:1], *words[-1:]]


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
    found = ", ".join(f"{printable(split)} ({count} {what})" for split, count in sorted(counts.items()))
    if chosen not in counts:
        raise DataError(
            f"data.split={quoted(wanted or '')} is not among the splits of the data: {found or 'it has none'}; "
            "leave it out, or give one of them or `all`"
        )
    used = np.array([split == chosen or (split is None and wanted is None) for split in splits])
    if wanted is not None or used.all():
        return used, ""
    return used, f"of the splits {found} only {chosen} is used (choose with --data.split, which may be `all`)"
