"""Writes data sets: images become bytes in any process, and one process writes them to files in order."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stylegan_ray.data.atomic_output import Output, check_place, open_output
from stylegan_ray.data.dataset import Dataset
from stylegan_ray.data.errors import BadImage
from stylegan_ray.data.formats.protocol import Format, WritableFormat, Writer
from stylegan_ray.storage import split_address

PLAN_BYTES = 1 << 24
PLAN_IMAGES = 256
"""Bytes and number of the images that are encoded together, at most."""
ATTRIBUTION_FILE = "ATTRIBUTION.txt"

Plan = np.ndarray
"""Indices of the images that are encoded together, in the order in which they are written."""


@dataclass(frozen=True)
class Encoder:
    """Reads images of a data set and encodes them for another format."""

    dataset: Dataset
    writing: WritableFormat

    def __call__(self, plan: Plan) -> list[bytes]:
        """A report of which images could be read (see `parse_report`), then the encoded images."""
        good, images, bad = [], [], []
        for index in plan.tolist():
            try:
                images.append(self.dataset.read(index))
                good.append(index)
            except BadImage as error:
                bad.append((error.name, error.reason))
        report = json.dumps({"good": good, "bad": bad}).encode()
        return [report, *(self.writing.encode(np.stack(images)) if images else [])]


def parse_report(pieces: Sequence[bytes]) -> tuple[list[int], list[tuple[str, str]]]:
    """Indices of the images that were encoded; names and reasons of those that could not be read."""
    report = json.loads(bytes(pieces[0]))
    return report["good"], [(name, reason) for name, reason in report["bad"]]


def split_into_plans(order: np.ndarray, image_bytes: int) -> list[Plan]:
    """The order in which images are written, cut into plans."""
    size = min(max(PLAN_BYTES // image_bytes, 1), PLAN_IMAGES)
    return [order[i : i + size] for i in range(0, len(order), size)]


@dataclass(frozen=True)
class WriteTask:
    """A data set that is to be written to `dest` in a format that can be written."""

    dataset: Dataset
    format: Format
    dest: str
    plans: Sequence[Plan]
    stamp: str = ""
    """What the index of the data set was made from."""

    @classmethod
    def plan(cls, dataset: Dataset, format: Format, dest: str, order: np.ndarray, stamp: str = "") -> WriteTask:
        """Writes the images of these indices in this order."""
        assert format.writer is not None
        plans = split_into_plans(order, format.writer.image_bytes(dataset.shape()))
        return cls(dataset, format, dest if "?" in dest else dest.rstrip("/") or "/", plans, stamp)

    @property
    def num_images(self) -> int:
        return self.dataset.num_images

    @property
    def writing(self) -> WritableFormat:
        assert self.format.writer is not None
        return self.format.writer

    @property
    def is_file(self) -> bool:
        """Whether DEST is one file that holds the whole data set."""
        return is_single_file(self.format, self.dest)

    @property
    def name(self) -> str:
        """The last part of DEST."""
        return _last_part(self.dest)

    def open_output(self, overwrite: bool) -> Output:
        """The place for the files; raises DataError when they cannot or must not be written there."""
        endings = endings_of(self.format)
        return open_output(self.dest, self.is_file, endings, overwrite, self.writing.disk_bytes(self.dataset))

    def open_writer(self, output: Output) -> Writer:
        """What writes the encoded images."""
        sizes = [len(plan) for plan in self.plans]
        return self.writing.open_writer(output, self.name, self.is_file, self.dataset, sizes)


def refuse_taken(format: Format, dest: str, overwrite: bool) -> None:
    """Raises DataError where DEST is taken, before anything is read."""
    check_place(dest, is_single_file(format, dest), endings_of(format), overwrite)


def is_single_file(format: Format, dest: str) -> bool:
    """Whether DEST is one file that holds the whole data set."""
    ending = format.single_file_ending
    return ending is not None and _last_part(dest).lower().endswith(ending)


def endings_of(format: Format) -> list[str]:
    """Endings of the files that a data set of a format consists of."""
    assert format.writer is not None
    return [*format.writer.endings, ATTRIBUTION_FILE]


def _last_part(dest: str) -> str:
    return split_address(dest)[1] if "://" in dest else os.path.basename(os.path.abspath(dest))


def write_attribution(output: Output, dataset: Dataset) -> None:
    """Writes the attribution of the images to a file, where it is known."""
    if dataset.attribution:
        with output.open(ATTRIBUTION_FILE) as file:
            file.write(f"{dataset.attribution}\n".encode())
