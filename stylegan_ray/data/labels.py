"""Labels of a data set: from dataset.json, or from the names of sub-folders."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from stylegan_ray.data.errors import DataError
from stylegan_ray.data.packed_names import PackedNames

LABEL_FILE = "dataset.json"


@dataclass(frozen=True)
class Labels:
    """Labels of all images as stored: class numbers [n], vectors [n,L], or the reason why there are none."""

    values: np.ndarray | None = None
    problem: str = "the data set has no labels"
    class_names: tuple[str, ...] | None = None

    @property
    def size(self) -> int:
        """Width of the label vectors; class numbers count as one-hot."""
        if self.values is None:
            return 0
        return int(self.values.max()) + 1 if self.values.ndim == 1 else self.values.shape[1]

    @classmethod
    def of(cls, labels: list[Any], where: str, class_names: tuple[str, ...] | None = None) -> Labels:
        """Labels from class numbers or vectors, one per image."""
        try:
            return cls(_as_array(labels), class_names=class_names)
        except (TypeError, ValueError) as error:
            return cls(problem=f"{where} must hold whole numbers, or vectors of one length: {error}")


def label_vectors(values: np.ndarray, size: int) -> np.ndarray:
    """float32 [n, size] of class numbers [n] (one-hot) or of vectors [n,L] (first columns)."""
    if values.ndim == 2:
        return values[:, :size].astype(np.float32)
    return (values[:, None] == np.arange(size)).astype(np.float32)


def labels_from_json(content: bytes, names: PackedNames) -> Labels:
    """Labels as StyleGAN2-ADA stores them: {"labels": [[name, class or vector], ...] or null}."""
    try:
        tree = json.loads(content)
    except ValueError as error:
        return Labels(problem=f"{LABEL_FILE} is not JSON: {error}")
    entries = tree.get("labels") if isinstance(tree, Mapping) else None
    if not entries:
        return Labels(problem=f"{LABEL_FILE} holds no labels")
    class_names = tree.get("class_names")
    try:
        given = {str(name).replace("\\", "/"): label for name, label in entries}
        return _match(given, names, tuple(map(str, class_names)) if class_names else None)
    except (TypeError, ValueError) as error:
        return Labels(problem=f'{LABEL_FILE} must hold {{"labels": [[name, class or vector], ...]}}: {error}')


def _match(given: dict[str, Any], names: PackedNames, class_names: tuple[str, ...] | None) -> Labels:
    """The labels in the order of the images; every name must be in both."""
    missing = [name for name in names if name not in given]
    if missing:
        return Labels(problem=f"{LABEL_FILE} has no label for {list_names(missing)}")
    if len(given) > len(names):
        unknown = sorted(set(given).difference(names))
        return Labels(problem=f"{LABEL_FILE} names {list_names(unknown)}, which the data set does not hold")
    return Labels.of([given[name] for name in names], LABEL_FILE, class_names)


def _as_array(labels: list[Any]) -> np.ndarray:
    """Class numbers as int32 [n], vectors as float32 [n,L]."""
    if all(isinstance(label, int) and not isinstance(label, bool) for label in labels):
        classes = np.array(labels, dtype=np.int32)
        if classes.min() < 0:
            raise ValueError(f"class {classes.min()} is negative")
        return classes
    values = np.array(labels, dtype=np.float32)
    if values.ndim != 2 or not np.isfinite(values).all():
        raise ValueError("labels must be whole numbers, or vectors of one length with finite values")
    return values


def labels_from_folders(names: PackedNames, otherwise: str = f"there is no {LABEL_FILE}") -> Labels:
    """The top folder of each image as its class; classes are numbered in the order of the folders' names."""
    folders = [name.partition("/")[0] if "/" in name else "" for name in names]
    class_names = sorted(set(folders))
    if "" in class_names or len(class_names) < 2:
        return Labels(problem=f"{otherwise}, and the images are not stored in one sub-folder per class")
    numbers = {name: number for number, name in enumerate(class_names)}
    return Labels(np.array([numbers[folder] for folder in folders], dtype=np.int32), class_names=tuple(class_names))


def choose_label_size(labels: Labels, cond: bool, max_label_size: int | None, path: str) -> int:
    """Width of the labels to train on; raises DataError when data.cond needs labels and there are none."""
    if not cond or max_label_size == 0:
        return 0
    if labels.values is None:
        raise DataError(
            f"data.cond=True needs labels, but data.path={path}: {labels.problem}; "
            f"train without labels (--data.no-cond), or add a {LABEL_FILE} or one sub-folder per class"
        )
    return min(labels.size, max_label_size) if max_label_size else labels.size


def is_one_hot(values: np.ndarray) -> bool:
    """Whether label vectors [n,L] all hold a single 1 and else 0."""
    return bool(((values == 0) | (values == 1)).all() and (values.sum(axis=1) == 1).all())


def list_names(names: list[str], most: int = 3) -> str:
    """The first few names and how many there are."""
    shown = ", ".join(repr(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
