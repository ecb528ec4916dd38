"""Splits of a data set: which files or images belong to train, test or validation, and which are used."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from stylegan_ray.data.errors import DataError
from stylegan_ray.data.left_out import TFRECORD_LABELS_ENDING, quoted
from stylegan_ray.data.name_words import words_of
from stylegan_ray.untrusted import printable

TRAIN, ALL, OTHER = "train", "all", "other"
"""OTHER is where images and files are that are in none of the splits beside them."""
SPLITS = {
    TRAIN: "train training trn trainval",
    "test": "test testing tst",
    "validation": "validation validate valid val dev eval evaluation",
    "holdout": "holdout heldout",
    "unlabeled": "unlabeled unlabelled unsupervised",
    "extra": "extra extras",
    "prediction": "prediction predictions predict pred inference",
    "challenge": "challenge",
}
"""Words in names of splits, and what they mean."""
SPLIT_OF_WORD = {word: split for split, words in SPLITS.items() for word in words.split()}
PLAIN_WORDS = frozenset("set sets data dataset image images img imgs split folder part shard of v version".split())
"""Words that tell no split from another: train_images is beside test as train is."""
DEEPEST = 16
"""Folders below each other among which splits are looked for."""
GLUED = re.compile(r"\Ax(?=train|test|val)|(?:dataset|set|data|images?|imgs?)\Z")
"""What names have before and behind such a word, without a sign between."""


class SplitName(NamedTuple):
    """What the name of a folder or file says of its split."""

    split: str | None
    added: tuple[str, ...]
    """Its other words, without those that tell no split from another."""


@lru_cache(maxsize=1 << 12)
def split_name(name: str) -> SplitName:
    """The first pair of words, or word, that names a split, and the others (train2017, 01_train, hold-out, testset)."""
    words = words_of(name)
    for size in (2, 1):
        for start in range(len(words) - size + 1):
            word = "".join(words[start : start + size])
            if split := SPLIT_OF_WORD.get(word) or SPLIT_OF_WORD.get(GLUED.sub("", word)):
                return SplitName(split, _added([*words[:start], *words[start + size :]]))
    return SplitName(None, _added(words))


def _added(words: Sequence[str]) -> tuple[str, ...]:
    return tuple(word for word in words if word not in PLAIN_WORDS)


def are_splits(folders: Collection[str]) -> bool:
    """Whether folders side by side are splits: train and another one, where the same words are added, among others.

    train2017 and val2017 are, "bullet train" and "test tube" are not. Without train, all are to be named as splits;
    and parts of one split are splits: train_1 and train_2, but not trainA and trainB.
    """
    names = {split_name(folder) for folder in folders}
    train = {name.added for name in names if name.split == TRAIN}
    others = {name.added for name in names if name.split not in (None, TRAIN)}
    if train & others:
        return True
    return all(name.split for name in names) and len(train | others) < len(folders)


class Place(NamedTuple):
    """Where an image is."""

    split: str | None
    folders: tuple[str, ...]
    """Its folders from the top, without the one that is the split."""


Parents = frozenset[tuple[str, ...]]
"""Folders whose sub-folders are splits, each by its parts; the topmost is ()."""


def places_of_images(names: Sequence[str], parents: Parents | None = None) -> list[Place]:
    """The split and the folders of each image, where folders anywhere are splits that hold most of the images.

    Folders beside train and test are splits of their own name. `parents` says where the splits are if `names` are
    those of a part of the data set alone.
    """
    folders = list(map(_folder_of, names))
    counts = Counter(folders)
    paths = {folder: tuple(folder.split("/")) if folder else () for folder in counts}
    if parents is None:
        parents = _parents_of_splits(paths.values())
    places = {folder: _place(path, parents) for folder, path in paths.items()}
    num_found = sum(counts[folder] for folder, place in places.items() if place.split)
    missing = OTHER if 2 * num_found > len(names) else None
    for folder, place in places.items():
        if not place.split or not missing:
            places[folder] = Place(missing, () if missing else paths[folder])
    return [places[folder] for folder in folders]


def parents_of_splits(names: Iterable[str]) -> Parents:
    """Where the splits of all images of a data set are."""
    return _parents_of_splits(tuple(folder.split("/")) for folder in {*map(_folder_of, names), ""} - {""})


def _folder_of(name: str) -> str:
    return name.replace("\\", "/").lstrip("/").rpartition("/")[0]


def _parents_of_splits(paths: Iterable[tuple[str, ...]]) -> Parents:
    children: dict[tuple[str, ...], set[str]] = {}
    for path in paths:
        for depth in reversed(range(min(len(path), DEEPEST))):
            names = children.setdefault(path[:depth], set())
            if path[depth] in names:
                break
            names.add(path[depth])
    return frozenset(parent for parent, names in children.items() if are_splits(names))


def _place(path: tuple[str, ...], parents: Collection[tuple[str, ...]]) -> Place:
    """The place of a folder, by the topmost of its folders that are splits."""
    for depth in range(min(len(path), DEEPEST) + 1 if parents else 0):
        if path[:depth] in parents:
            name = path[depth] if depth < len(path) else ""
            return Place(split_name(name).split or name or OTHER, path[:depth] + path[depth + 1 :])
    return Place(None, path)


def splits_of_images(names: Sequence[str]) -> list[str | None]:
    """The split of each image; None where no folders are splits."""
    return [place.split for place in places_of_images(names)]


def splits_of_files(names: Sequence[str]) -> list[str | None]:
    """The split of each archive, by the words of its folders and its name; None where there is none.

    Folders that hold all of them count last. Archives beside those of train are splits of their own name.
    """
    parts = [os.path.splitext(name)[0].split("/") for name in names]
    num_shared = next((i for i, same in enumerate(zip(*parts, strict=False)) if len(set(same)) > 1), 0)
    splits = [_first_split(part[num_shared:]) for part in parts]
    if not any(splits):
        return [_first_split(part) for part in parts]
    if TRAIN not in splits:
        return list(splits)
    return [
        split or (None if name.endswith(TFRECORD_LABELS_ENDING) else _own_name(part[num_shared:]))
        for name, part, split in zip(names, parts, splits, strict=True)
    ]


def _first_split(parts: Sequence[str]) -> str | None:
    return next((name.split for name in map(split_name, parts) if name.split), None)


def _own_name(parts: Sequence[str]) -> str:
    """The words of the first part that has any."""
    return next((" ".join(name.added) for name in map(split_name, parts) if name.added), OTHER)


def folders_read_together(names: Sequence[str]) -> list[str]:
    """A folder for each group of archives whose folders differ by more than splits and numbers; empty for one group."""
    found: dict[tuple[str, ...], str] = {}
    for folder in sorted({os.path.dirname(name) for name in names}):
        found.setdefault(tuple(word for part in folder.split("/") for word in split_name(part).added), folder)
    return list(found.values()) if len(found) > 1 else []


def is_all(wanted: str | None) -> bool:
    """Whether data.split names no split but all of them."""
    return wanted is None or wanted.lower() == ALL


def choose_split(splits: Sequence[str | None], wanted: str | None, what: str) -> tuple[np.ndarray, str]:
    """Which of the items are used bool [n], and what to say about the others; `what` names the items.

    Items without a split are used where no split is asked for. Raises DataError where there is none to use.
    """
    counts = Counter(split for split in splits if split)
    found = ", ".join(f"{printable(split)} ({count} {what})" for split, count in sorted(counts.items()))
    usual = TRAIN if len(counts) > 1 and TRAIN in counts else ALL
    chosen = usual if wanted is None else _spelled(wanted, counts)
    if chosen == ALL:
        is_told = wanted is None and len(counts) > 1
        note = f"the splits {found} are used together (choose one with --data.split)" if is_told else ""
        return np.ones(len(splits), dtype=bool), note
    if chosen not in counts:
        raise DataError(
            f"data.split={quoted(wanted or '')} is not among the splits of the data: {found or 'it has none'}; "
            "leave it out, or give one of them or `all`"
        )
    used = np.array([split == chosen or (split is None and wanted is None) for split in splits])
    if wanted is not None or used.all():
        return used, ""
    return used, f"of the splits {found} only {chosen} is used (choose with --data.split, which may be `all`)"


def _spelled(wanted: str, splits: Iterable[str]) -> str:
    """The split that a user means, as the data spells it."""
    by_letters = {split.lower(): split for split in (*splits, ALL)}
    return by_letters.get(wanted.lower()) or split_name(wanted).split or wanted
