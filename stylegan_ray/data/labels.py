"""Labels of a data set: from dataset.json, from the names of sub-folders, or as a format stores them."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np

from stylegan_ray.data.errors import DataError
from stylegan_ray.data.left_out import LABEL_FILE, list_names, quoted
from stylegan_ray.data.name_words import is_mask, is_of_images
from stylegan_ray.data.packed_names import PackedNames
from stylegan_ray.data.splits import Parents, are_splits, places_of_images, splits_of_images
from stylegan_ray.untrusted import BadFileError, describe_pointer, printable, short_repr
from stylegan_ray.untrusted_text import parse_json

LABEL_BYTES, LABEL_BYTES_PER_IMAGE = 1 << 20, 1 << 15
"""Largest dataset.json: so much, and so much for each image; a vector of 512 numbers takes about 10 kB."""
MAX_LABEL_BYTES = 1 << 29
BRACKETS, BRACKETS_PER_IMAGE = 10_000, 16
COMMAS, COMMAS_PER_IMAGE = 10_000, 1024
"""Lists, objects and their entries in dataset.json, which take far more memory than text."""
CLASS_BOUND, ID_BOUND = 1 << 31, 1 << 64
"""Classes that are trained on have numbers below the first; ids to be renumbered are below the second."""
NUMBER = re.compile(r"[+-]?[0-9]+(?:\.[0-9]*)?")
"""Names of classes that are ordered by value."""
NO_CLASSES = ("", "nan")
"""What programs write where there is no class."""
LEADING = re.compile(r"^(?:\.?/)+")
FORM = '{"labels": [[name, class or vector], ...]}'
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

        Whole numbers stored as floats are class numbers. So are vectors of one whole number where one is above 1 and
        none is negative; of other vectors each number is an attribute. `where` says in messages where the labels are
        stored, `name` which image a label belongs to.
        """
        try:
            if isinstance(labels, np.ndarray):
                found = _of_numbers(_checked_array(labels, name), where, class_names)
            elif labels and all(isinstance(label, str) for label in labels):
                return _of_texts(labels, name)
            else:
                found = _of_numbers(_as_array(labels, name), where, class_names)
        except ValueError as error:
            return cls(problem=f"{where} must hold class numbers, or vectors of one length: {error}")
        if problem := _problem_of_names(found, class_names or ()):
            return cls(problem=f"the class names of {where} {problem}")
        return replace(found, is_late=True) if _are_floats(labels) else found

    def renumbered(self) -> Labels:
        """Classes 0, 1, 2, ... in the order of their numbers; each is named as before, or by its former number."""
        classes = self.values if self.sparse is None else self.sparse
        if classes is None or classes.ndim == 2:
            return self
        numbers, values = np.unique(classes, return_inverse=True)
        old: tuple[str, ...] = self.class_names or ()
        names = tuple(old[number] if number < len(old) else str(number) for number in map(int, numbers))
        return Labels(values.astype(np.int32), class_names=names)


def _problem_of_names(labels: Labels, class_names: Sequence[str]) -> str:
    """Why these are no names of the classes of labels, as the end of a sentence; empty where they are."""
    if twice := next((name for name, count in Counter(class_names).items() if count > 1), None):
        return f"hold {quoted(twice)} twice; give each class a name of its own"
    is_numbered = labels.values is not None and labels.values.ndim == 1
    if class_names and is_numbered and labels.size > len(class_names):
        return f"are {len(class_names)}, and there is a class {labels.size - 1}; give a name for each class from 0"
    return ""


def _are_floats(labels: Sequence[Any] | np.ndarray) -> bool:
    """Whether there are single floats, which version 0.1 refused."""
    if isinstance(labels, np.ndarray):
        return labels.ndim == 1 and labels.dtype.kind == "f"
    return any(isinstance(label, float) for label in labels)


def _of_numbers(values: np.ndarray, where: str, class_names: tuple[str, ...] | None) -> Labels:
    """Labels from checked values; class numbers that are large or have large gaps become `sparse`."""
    if values.ndim == 2 or not len(values):
        return Labels(values if values.ndim == 2 else values.astype(np.int32), class_names=class_names)
    size, used = int(values.max()) + 1, len(np.unique(values))
    if size <= CLASS_BOUND:
        values = values.astype(np.int32)
    if size > CLASS_BOUND or (size > MANY_CLASSES and size > EMPTY_SHARE * used):
        return Labels(
            problem=f"the class numbers of {where} go up to {size - 1}, but {used} of these {size} classes have "
            f"images; number them 0 to {used - 1} with --data.renumber_classes",
            sparse=values,
            class_names=class_names,
            is_late=size > CLASS_BOUND,
        )
    return Labels(values, class_names=class_names)


def _of_texts(labels: Sequence[str], name: Callable[[int], str]) -> Labels:
    """Each text as a class, in the order of the texts, or of their values where all are numbers; raises ValueError."""
    for i, text in enumerate(labels):
        if problem := problem_of_text(text):
            raise ValueError(f"the label of {name(i)} {problem}; write the number or the name of its class")
    class_names = sorted(set(labels))
    if all(map(NUMBER.fullmatch, class_names)):
        class_names.sort(key=Decimal)
    numbers = {text: number for number, text in enumerate(class_names)}
    values = np.array([numbers[text] for text in labels], dtype=np.int32)
    return Labels(values, class_names=tuple(class_names), is_late=True)


def problem_of_text(text: str) -> str:
    """Why a text names no class, as the end of a sentence; empty where it does."""
    if text.strip().lower() not in NO_CLASSES:
        return ""
    return f"holds {short_repr(text)}" if text.strip() else "is empty"


def _as_array(labels: Sequence[Any], name: Callable[[int], str]) -> np.ndarray:
    """Class numbers as integers [n], vectors as float32 [n,L]; raises ValueError."""
    if all(map(_is_number, labels)):
        return _class_array(labels, name)
    kinds = list(map(_kind, labels))
    other = next((i for i, kind in enumerate(kinds) if kind != kinds[0]), None)
    if other is not None:
        shown = short_repr(labels[other])
        raise ValueError(f"the label of {name(other)} is {shown}, that of {name(0)} {short_repr(labels[0])}")
    if not isinstance(kinds[0], int) or not kinds[0]:
        raise ValueError(
            f"the label of {name(0)} is {short_repr(labels[0])}, neither a class number nor a vector; write a whole "
            "number from 0, or numbers in a list"
        )
    for i, label in enumerate(labels):
        if not all(map(_is_number, label)):
            raise ValueError(f"the label of {name(i)} is {short_repr(label)}, not a vector of numbers")
    firsts = [label[0] for label in labels] if kinds[0] == 1 else []
    if firsts and all(isinstance(number, int) for number in firsts) and _exceed_attributes(min(firsts), max(firsts)):
        return _class_array(firsts, name)
    try:
        return _checked_array(np.array(labels, dtype=np.float64), name)
    except OverflowError:
        raise ValueError("a vector has a number that is too large") from None


def _class_array(labels: Sequence[int | float], name: Callable[[int], str]) -> np.ndarray:
    """Class numbers as integers [n]; raises ValueError where one is not whole, negative or too large."""
    numbers = [int(label) if isinstance(label, float) and label.is_integer() else label for label in labels]
    for i, number in enumerate(numbers):
        if isinstance(number, float) or not 0 <= number < ID_BOUND:
            raise ValueError(_wrong_class(number, name(i)))
    return np.array(numbers, dtype=np.uint64 if max(numbers, default=0) >= ID_BOUND >> 1 else np.int64)


def _exceed_attributes(least: int, most: int) -> bool:
    """Whether whole numbers in vectors of length one are class numbers: attributes are 0 and 1, or -1 and 1."""
    return least >= 0 and most > 1


def _kind(label: Any) -> int | str:
    """What labels of one data set have in common: the length of a vector, or the type."""
    return len(label) if isinstance(label, list | tuple) else type(label).__name__


def _checked_array(values: np.ndarray, name: Callable[[int], str]) -> np.ndarray:
    """Class numbers [n] as integers, vectors [n,L] as float32; raises ValueError for others, before any cast."""
    if values.dtype.kind not in "iuf" or values.ndim not in (1, 2):
        raise ValueError(
            f"they are an array of {values.dtype} of shape {values.shape}; write whole numbers [n] or vectors [n,L]"
        )
    if values.dtype.kind in "iu" and values.ndim == 2 and values.shape[1] == 1 and len(values):
        values = values[:, 0] if _exceed_attributes(int(values.min()), int(values.max())) else values
    if values.ndim == 1:
        values = values.astype(np.float64) if values.dtype.kind == "f" else values
        wrong = np.flatnonzero(~((values >= 0) & (values < ID_BOUND) & (np.floor(values) == values)))
        if len(wrong):
            raise ValueError(_wrong_class(values[wrong[0]].item(), name(int(wrong[0]))))
        is_large = values.max(initial=0) >= ID_BOUND >> 1
        return values.astype(np.uint64 if is_large else np.int64)
    if not 1 <= values.shape[1] <= MAX_COLUMNS:
        raise ValueError(f"vectors have {values.shape[1]} numbers, and may have 1 to {MAX_COLUMNS}")
    with np.errstate(over="ignore"):
        numbers = values.astype(np.float32)
    wrong = np.flatnonzero(~np.isfinite(numbers).all(axis=1))
    if len(wrong):
        raise ValueError(f"all numbers must be finite in float32, and those of {name(int(wrong[0]))} are not")
    return numbers


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _wrong_class(number: int | float, name: str) -> str:
    shown = short_repr(number)
    if number != number or number % 1:
        return (
            f"class {shown} of {name} is not a whole number; write whole numbers from 0, or vectors such as [{shown}]"
        )
    if number < 0:
        return f"class {shown} is negative, that of {name}; number the classes from 0"
    return f"class {shown} of {name} is not below {ID_BOUND}; number the classes from 0"


def label_vectors(values: np.ndarray, size: int) -> np.ndarray:
    """float32 [n, size] of class numbers [n] (one-hot) or of vectors [n,L] (first columns)."""
    if values.ndim == 2:
        return values[:, :size].astype(np.float32)
    return (values[:, None] == np.arange(size)).astype(np.float32)


class LabelFile(NamedTuple):
    """A dataset.json and the images whose labels it holds."""

    content: bytes
    names: Sequence[str] | PackedNames
    folder: str = ""
    """Where the file is stored, with a slash at its end where that is not the root."""


def labels_from_json(*files: LabelFile) -> Labels:
    """Labels as StyleGAN2-ADA stores them: {"labels": [[name, class or vector], ...] or null}.

    Names are relative to the folder of the file, or to the root; see `_aligned` for what else they may be.
    """
    labels, class_names, is_late = list[Any](), dict[tuple[str, ...], None](), False
    stored = [name for file in files for name in file.names]
    try:
        for file in files:
            if pointer := describe_pointer(file.content):
                raise BadFileError(f"{LABEL_FILE} is {pointer}; run `git lfs pull`, or download the file itself")
            tree = read_tree(file.content, len(file.names))
            some, late = _match(_given(tree, file.names), file)
            labels += some
            is_late = is_late or late
            class_names |= dict.fromkeys(filter(None, [texts(tree.get("class_names"))]))
    except BadFileError as error:
        return Labels(problem=str(error))
    except ValueError as error:
        return Labels(problem=f"{LABEL_FILE} must hold {FORM}: {error}")
    if len(class_names) > 1:
        return Labels(problem=f"the files {LABEL_FILE} name their classes differently; write the same names in all")
    found = Labels.of(labels, LABEL_FILE, next(iter(class_names), None), name=lambda i: quoted(stored[i]))
    return replace(found, is_late=found.is_late or is_late)


def attribution_from_json(content: bytes | None, num_images: int) -> str | None:
    """The text `attribution` of a dataset.json for so many images, if there is one."""
    if not content or b'"attribution"' not in content:
        return None
    try:
        tree = read_tree(content, num_images)
    except BadFileError:
        return None
    text = tree.get("attribution") if isinstance(tree, dict) else None
    return printable(text, most=1000) if isinstance(text, str) else None


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


def _given(tree: Any, images: Sequence[str] | PackedNames) -> dict[str, Any]:
    """The label of each name, with '/' in names; raises BadFileError where there are none, else ValueError."""
    if not isinstance(tree, Mapping) or (tree and "labels" not in tree):
        raise ValueError(f"it is {short_repr(tree)}")
    entries, given = tree.get("labels"), {}
    if not entries:
        has_classes = labels_from_folders(images).values is not None
        hint = " (delete it to use the sub-folders as classes)" if has_classes else ""
        raise BadFileError(f"{LABEL_FILE} holds no labels{hint}")
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


def _match(given: dict[str, Any], file: LabelFile) -> tuple[list[Any], bool]:
    """The labels in the order of the images, and whether version 0.1 did not find them.

    Every name must be in both; raises BadFileError where one is not.
    """
    stored = [name.replace("\\", "/") for name in file.names]
    wanted = [name.removeprefix(file.folder) for name in stored]
    is_late = wanted != list(file.names)
    if any(key not in given for key in wanted):
        aligned = _aligned(given, stored)
        if aligned is None:
            if twice := next((name for name, times in Counter(map(_composed, stored)).items() if times > 1), None):
                raise BadFileError(
                    f"two images have the name {quoted(twice)}, in two forms of Unicode; rename one, or delete it"
                )
            missing = min(_missing(given, stored), key=len)
            raise BadFileError(
                f"{LABEL_FILE} has no label for {list_names(missing)}; its names are such as "
                f"{quoted(next(iter(given)))}, and must be those of the images"
            )
        (given, wanted), is_late = aligned, True
    if len(given) > len(set(wanted)) and (unknown := _unknown(given, set(wanted))):
        raise BadFileError(f"{LABEL_FILE} names {list_names(unknown)}, which the data set does not hold")
    return [given[key] for key in wanted], is_late


def _aligned(given: Mapping[str, Any], images: Sequence[str]) -> tuple[dict[str, Any], list[str]] | None:
    """Labels by keys, and the key of each image, where their names agree in form only; None where they do not.

    They may differ in Unicode's form, case, "./", leading folders that all on one side share, or all folders. No two
    names of a side may then be one.
    """
    for labeled, wanted in _forms(given, images):
        by_key = dict(zip(labeled, given.values(), strict=True))
        if len(by_key) == len(given) and len(set(wanted)) == len(wanted) and by_key.keys() >= set(wanted):
            return by_key, wanted
    return None


def _missing(given: Mapping[str, Any], images: Sequence[str]) -> Iterator[list[str]]:
    """The images without a label, for each form in which names may agree and no two of a side are one."""
    yield [image for image in images if image not in given]
    for labeled, wanted in _forms(given, images):
        known = set(labeled)
        if len(known) == len(labeled) and len(set(wanted)) == len(wanted):
            yield [image for image, key in zip(images, wanted, strict=True) if key not in known]


def _forms(given: Iterable[str], images: Sequence[str]) -> Iterator[tuple[list[str], list[str]]]:
    """Names with labels and names of images, in forms in which they may agree."""
    for form in (_composed, lambda name: _composed(name).casefold()):
        yield from _without_folders(list(map(form, given)), list(map(form, images)))


def _composed(name: str) -> str:
    """A name without leading slash or "./", and composed: names of macOS are not, those of most programs are."""
    return unicodedata.normalize("NFC", LEADING.sub("", name))


def _without_folders(labeled: list[str], images: list[str]) -> Iterator[tuple[list[str], list[str]]]:
    """Names with labels and names of images: as they are, without folders that all of one side share, without all."""
    known = set(labeled)
    yield labeled, images
    for folder in _shared_folders(labeled):
        if folder + images[0] in known:
            yield [name[len(folder) :] for name in labeled], images
    for folder in _shared_folders(images):
        if images[0][len(folder) :] in known:
            yield labeled, [name[len(folder) :] for name in images]
    yield [name.rpartition("/")[2] for name in labeled], [name.rpartition("/")[2] for name in images]


def _shared_folders(names: Sequence[str]) -> Iterator[str]:
    """The leading folders of all names, from one to as many as they share, each with a slash at its end."""
    folder = ""
    for part in names[0].split("/")[:-1]:
        folder += f"{part}/"
        if not all(name.startswith(folder) for name in names):
            return
        yield folder


def _unknown(given: Mapping[str, Any], wanted: set[str]) -> list[str]:
    """Names that are given and not wanted, but for those in folders of splits of which no image is used."""
    splits = dict(zip(given, splits_of_images(list(given)), strict=True))
    used = {splits[name] for name in wanted}
    return sorted(name for name in given if name not in wanted and splits[name] in used)


def labels_from_folders(
    names: PackedNames | Sequence[str], otherwise: str = f"there is no {LABEL_FILE}", parents: Parents | None = None
) -> Labels:
    """The top folder of each image as its class; classes are numbered in the order of the folders' names.

    A folder that holds all others, and folders of splits (train, test), are no classes: those below them are.
    Classes that are hardly meant as such are `sparse`. Names may be absolute. `parents` says where splits are if these
    are the names of one of them.
    """
    stored = list(names)
    folders = _class_folders(stored, parents)
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


def _class_folders(names: Sequence[str], parents: Parents | None) -> list[str]:
    """The folder of each image that may be its class; empty where there is none."""
    parts, depth = [place.folders for place in places_of_images(names, parents)], 0
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
