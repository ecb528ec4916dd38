"""Labels of a data set: from dataset.json, from the names of sub-folders, or as a format stores them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from stylegan_ray.data.errors import DataError
from stylegan_ray.data.left_out import list_names, quoted
from stylegan_ray.data.name_words import is_mask, is_of_images
from stylegan_ray.data.packed_names import PackedNames
from stylegan_ray.data.splits import are_splits, places_of_images, splits_of_images
from stylegan_ray.untrusted import BadFileError, short_repr
from stylegan_ray.untrusted_text import parse_json

LABEL_FILE = "dataset.json"
LABEL_BYTES, LABEL_BYTES_PER_IMAGE = 1 << 20, 1 << 15
"""Largest dataset.json: so much, and so much for each image; a vector of 512 numbers takes about 10 kB."""
MAX_LABEL_BYTES = 1 << 29
BRACKETS, BRACKETS_PER_IMAGE = 10_000, 16
COMMAS, COMMAS_PER_IMAGE = 10_000, 1024
"""Lists, objects and their entries in dataset.json, which take far more memory than text."""
CLASS_BOUND = 1 << 31
"""Class numbers are below this."""
MAX_COLUMNS = 1 << 16
"""Widest label vectors."""
NUMBERED = re.compile(r"[0-9]{3,}(?:[-_][0-9]{3,})?")
"""Names of folders that hold a thousand images each, or so, where all are of one length: 00000, 00000-00999."""
MANY_CLASSES, EMPTY_SHARE = 1000, 10
"""Classes have gaps where there are more than so many, and so many times more than have images."""


@dataclass(frozen=True)
class Labels:
    """Labels of all images as stored: class numbers [n], vectors [n,L], or the reason why there are none."""

    values: np.ndarray | None = None
    problem: str = "the data set has no labels"
    class_names: tuple[str, ...] | None = None
    sparse: np.ndarray | None = None
    """Class numbers [n] that are hardly meant as labels, such as those with gaps: labels only after `renumbered`."""
    is_late: bool = False
    """Whether version 0.1 did not find these labels: they enter the fingerprint only where they are used."""

    @property
    def size(self) -> int:
        """Width of the label vectors; class numbers count as one-hot."""
        if self.values is None:
            return 0
        return int(self.values.max(initial=0)) + 1 if self.values.ndim == 1 else self.values.shape[1]

    @classmethod
    def of(
        cls,
        labels: Sequence[Any] | np.ndarray,
        where: str,
        class_names: tuple[str, ...] | None = None,
        name: Callable[[int], str] = "image number {}".format,
    ) -> Labels:
        """Labels from class numbers, texts or vectors, one per image: the one check of all formats.

        `where` says in messages where the labels stand, `name` which image a label belongs to.
        """
        try:
            if isinstance(labels, np.ndarray):
                return _of_numbers(_checked_array(labels, name), where, class_names)
            if labels and all(isinstance(label, str) for label in labels):
                return _of_texts(labels)
            return _of_numbers(_as_array(labels, name), where, class_names)
        except ValueError as error:
            return cls(problem=f"{where} must hold class numbers, or vectors of one length: {error}")

    def renumbered(self) -> Labels:
        """Classes 0, 1, 2, ... in the order of their numbers; each is named as before, or by its former number."""
        classes = self.values if self.sparse is None else self.sparse
        if classes is None or classes.ndim == 2:
            return self
        numbers, values = np.unique(classes, return_inverse=True)
        old: tuple[str, ...] = self.class_names or ()
        names = tuple(old[number] if number < len(old) else str(number) for number in map(int, numbers))
        return Labels(values.astype(np.int32), class_names=names)


def _of_numbers(values: np.ndarray, where: str, class_names: tuple[str, ...] | None) -> Labels:
    """Labels from checked values; class numbers with large gaps become `sparse`."""
    if values.ndim == 1 and len(values):
        size, used = int(values.max()) + 1, len(np.unique(values))
        if size > MANY_CLASSES and size > EMPTY_SHARE * used:
            return Labels(
                problem=f"the class numbers of {where} go up to {size - 1}, but {used} of these {size} classes have "
                f"images; number them 0 to {used - 1} with --data.renumber_classes",
                sparse=values,
                class_names=class_names,
            )
    return Labels(values, class_names=class_names)


def _of_texts(labels: Sequence[str]) -> Labels:
    """Each text as a class, in the order of the texts."""
    class_names = sorted(set(labels))
    numbers = {text: number for number, text in enumerate(class_names)}
    values = np.array([numbers[text] for text in labels], dtype=np.int32)
    return Labels(values, class_names=tuple(class_names), is_late=True)


def _as_array(labels: Sequence[Any], name: Callable[[int], str]) -> np.ndarray:
    """Class numbers as int32 [n], vectors as float32 [n,L]; raises ValueError."""
    if all(_is_int(label) for label in labels):
        for i, label in enumerate(labels):
            if not 0 <= label < CLASS_BOUND:
                raise ValueError(_wrong_class(label, name(i)))
        return np.array(labels, dtype=np.int32)
    kinds = list(map(_kind, labels))
    other = next((i for i, kind in enumerate(kinds) if kind != kinds[0]), None)
    if other is not None:
        shown = short_repr(labels[other])
        raise ValueError(f"the label of {name(other)} is {shown}, that of {name(0)} {short_repr(labels[0])}")
    if not isinstance(kinds[0], int) or not kinds[0]:
        raise ValueError(f"the label of {name(0)} is {short_repr(labels[0])}, neither a class number nor a vector")
    for i, label in enumerate(labels):
        if not all(_is_int(number) or isinstance(number, float) for number in label):
            raise ValueError(f"the label of {name(i)} is {short_repr(label)}, not a vector of numbers")
    try:
        return _checked_array(np.array(labels, dtype=np.float64), name)
    except OverflowError:
        raise ValueError("a vector has a number that is too large") from None


def _kind(label: Any) -> int | str:
    """What labels of one data set have in common: the length of a vector, or the type."""
    return len(label) if isinstance(label, list | tuple) else type(label).__name__


def _checked_array(values: np.ndarray, name: Callable[[int], str]) -> np.ndarray:
    """Class numbers [n] as int32, vectors [n,L] as float32; raises ValueError for others, before any cast."""
    if values.dtype.kind not in "iuf" or values.ndim not in (1, 2) or (values.ndim == 1 and values.dtype.kind == "f"):
        raise ValueError(f"they are an array of {values.dtype} of shape {values.shape}")
    if values.ndim == 1:
        wrong = np.flatnonzero((values < 0) | (values >= CLASS_BOUND))
        if len(wrong):
            raise ValueError(_wrong_class(int(values[wrong[0]]), name(int(wrong[0]))))
        return values.astype(np.int32)
    if not 1 <= values.shape[1] <= MAX_COLUMNS:
        raise ValueError(f"vectors have {values.shape[1]} numbers, and may have 1 to {MAX_COLUMNS}")
    with np.errstate(over="ignore"):
        numbers = values.astype(np.float32)
    wrong = np.flatnonzero(~np.isfinite(numbers).all(axis=1))
    if len(wrong):
        raise ValueError(f"all numbers must be finite in float32, and those of {name(int(wrong[0]))} are not")
    return numbers


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _wrong_class(number: int, name: str) -> str:
    if number < 0:
        return f"class {short_repr(number)} is negative, that of {name}; number the classes from 0"
    return f"class {short_repr(number)} of {name} is not below {CLASS_BOUND}; number the classes from 0"


def label_vectors(values: np.ndarray, size: int) -> np.ndarray:
    """float32 [n, size] of class numbers [n] (one-hot) or of vectors [n,L] (first columns)."""
    if values.ndim == 2:
        return values[:, :size].astype(np.float32)
    return (values[:, None] == np.arange(size)).astype(np.float32)


def labels_from_json(content: bytes, names: PackedNames, folder: str = "") -> Labels:
    """Labels as StyleGAN2-ADA stores them: {"labels": [[name, class or vector], ...] or null}.

    Names are relative to `folder`, which ends with a slash where it is not the root.
    """
    try:
        tree = read_tree(content, len(names))
    except BadFileError as error:
        return Labels(problem=str(error))
    entries = tree.get("labels") if isinstance(tree, Mapping) else None
    if not entries:
        has_classes = labels_from_folders(names).values is not None
        hint = " (delete it to use the sub-folders as classes)" if has_classes else ""
        return Labels(problem=f"{LABEL_FILE} holds no labels{hint}")
    try:
        given = _given(entries)
        found = _match(given, names, folder)
        return replace(found, class_names=texts(tree.get("class_names"))) if found.class_names is None else found
    except ValueError as error:
        return Labels(problem=f'{LABEL_FILE} must hold {{"labels": [[name, class or vector], ...]}}: {error}')


def label_limit(num_images: int) -> int:
    """Most bytes of a dataset.json for so many images."""
    return min(LABEL_BYTES + LABEL_BYTES_PER_IMAGE * num_images, MAX_LABEL_BYTES)


def read_tree(content: bytes, num_images: int) -> Any:
    """The value of a dataset.json for so many images; raises BadFileError."""
    is_large = content.count(b"[") + content.count(b"{") > BRACKETS + BRACKETS_PER_IMAGE * num_images
    if is_large or content.count(b",") > COMMAS + COMMAS_PER_IMAGE * num_images:
        raise BadFileError(
            f"{LABEL_FILE} holds far more lists or numbers than the {num_images} images have labels; write it again or "
            "the data set as Parquet"
        )
    return parse_json(content, LABEL_FILE, limit=label_limit(num_images), allow_nan=True)


def texts(value: Any) -> tuple[str, ...] | None:
    """A list of texts as a tuple; None for anything else."""
    is_list = isinstance(value, list) and bool(value) and all(isinstance(text, str) for text in value)
    return tuple(value) if is_list else None


def _given(entries: Any) -> dict[str, Any]:
    """The label of each name, with '/' in names; raises ValueError."""
    given: dict[str, Any] = {}
    if not isinstance(entries, list):
        raise ValueError(f"labels are {short_repr(entries)}")
    for entry in entries:
        if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[0], str):
            raise ValueError(f"an entry is {short_repr(entry)}")
        name, label = entry[0].replace("\\", "/"), entry[1]
        if name in given and given[name] != label:
            raise ValueError(
                f"{quoted(name)} is given twice, as {short_repr(given[name])} and as {short_repr(label)}; keep one"
            )
        given[name] = label
    return given


def _match(given: dict[str, Any], names: PackedNames, folder: str) -> Labels:
    """The labels in the order of the images; every name must be in both."""
    wanted = [name.replace("\\", "/").removeprefix(folder) for name in names]
    stored = list(names)
    missing = [name for name in wanted if name not in given]
    if missing:  # names of macOS are decomposed, those of most programs are composed
        by_form = {unicodedata.normalize("NFC", name): label for name, label in given.items()}
        wanted_forms = [unicodedata.normalize("NFC", name) for name in wanted]
        if len(by_form) == len(given) and len(set(wanted_forms)) == len(wanted):
            given, wanted = by_form, wanted_forms
        missing = [name for name in wanted if name not in given]
    if missing:
        return Labels(problem=f"{LABEL_FILE} has no label for {list_names(missing)}")
    if len(given) > len(set(wanted)) and (unknown := _unknown(given, set(wanted))):
        return Labels(problem=f"{LABEL_FILE} names {list_names(unknown)}, which the data set does not hold")
    found = Labels.of([given[name] for name in wanted], LABEL_FILE, name=lambda i: quoted(stored[i]))
    return replace(found, is_late=True) if wanted != stored else found


def _unknown(given: Mapping[str, Any], wanted: set[str]) -> list[str]:
    """Names that are given and not wanted, but for those in folders of splits of which no image is used."""
    splits = dict(zip(given, splits_of_images(list(given)), strict=True))
    used = {splits[name] for name in wanted}
    return sorted(name for name in given if name not in wanted and splits[name] in used)


def labels_from_folders(names: PackedNames | Sequence[str], otherwise: str = f"there is no {LABEL_FILE}") -> Labels:
    """The top folder of each image as its class; classes are numbered in the order of the folders' names.

    A folder that holds all others, and folders of splits (train, test), are no classes: those below them are.
    Classes that are hardly meant as such are `sparse`. Names may be absolute.
    """
    stored = list(names)
    folders = _class_folders(stored)
    class_names, numbers = list[str](), dict[str, int]()
    for folder in sorted(set(folders)):
        if unicodedata.normalize("NFC", folder) not in numbers:  # names of macOS are decomposed
            class_names.append(folder)
        numbers[folder] = numbers.setdefault(unicodedata.normalize("NFC", folder), len(class_names) - 1)
    if "" in numbers or len(class_names) < 2:
        return Labels(problem=f"{otherwise}, and the images are not stored in one sub-folder per class")
    values = np.array([numbers[folder] for folder in folders], dtype=np.int32)
    tops = [name.partition("/")[0] for name in stored]
    labels = Labels(values, class_names=tuple(class_names), is_late=tops != folders)
    if doubt := _doubt_of_classes(class_names):
        problem = f"{otherwise}, and the sub-folders are {doubt}; with --data.renumber_classes they are classes"
        return replace(labels, values=None, sparse=values, problem=problem)
    return labels


def _class_folders(names: Sequence[str]) -> list[str]:
    """The folder of each image that may be its class; empty where there is none."""
    parts, depth = [place.folders for place in places_of_images(names)], 0
    while _is_common_depth(parts, depth):
        depth += 1
    return [_folder(part, depth) for part in parts]


def _is_common_depth(parts: Sequence[tuple[str, ...]], depth: int) -> bool:
    """Whether the folders at a depth tell nothing of classes: one that holds all images, or splits."""
    folders = {_folder(part, depth) for part in parts}
    return "" not in folders and (len(folders) == 1 or are_splits(folders))


def _folder(part: tuple[str, ...], depth: int) -> str:
    """The folder of an image at a depth; empty where there is none."""
    return part[depth] if len(part) > depth else ""


def _doubt_of_classes(folders: Sequence[str]) -> str:
    """Why folders are hardly classes, as the end of "they are ..."; empty where they may be."""
    has_zeros = any(folder.startswith("0") for folder in folders)
    if has_zeros and all(map(NUMBERED.fullmatch, folders)) and len(set(map(len, folders))) == 1:
        return f"numbered ({list_names(list(folders), most=2)}), as those that hold a thousand images each"
    masks = [folder for folder in folders if is_mask(folder)]
    if masks and any(map(is_of_images, folders)):
        return f"of images and of masks or labels ({list_names(masks)})"
    return ""


def choose_label_size(labels: Labels, cond: bool, max_label_size: int | None, path: str) -> int:
    """Width of the labels to train on; raises DataError when data.cond needs labels and there are none."""
    if not cond or max_label_size == 0:  # 0 is the original's way to say no labels
        return 0
    if labels.values is None:
        raise DataError(
            f"data.cond=True needs labels, but data.path={path}: {labels.problem}; "
            f"train without labels (--data.no-cond), or give labels in a {LABEL_FILE}, or without one, one sub-folder "
            "per class"
        )
    return min(labels.size, max_label_size) if max_label_size else labels.size


def is_one_hot(values: np.ndarray) -> bool:
    """Whether label vectors [n,L] all hold a single 1 and else 0."""
    return bool(((values == 0) | (values == 1)).all() and (values.sum(axis=1) == 1).all())
