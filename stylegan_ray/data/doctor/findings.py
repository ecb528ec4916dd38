"""What the doctor found in all images of a data set."""

from __future__ import annotations

import json
from array import array
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np

from stylegan_ray.data.doctor.near import Groups, equal_groups, similar_groups
from stylegan_ray.data.doctor.traits import TRAITS
from stylegan_ray.data.index import IS_BAD, Index

FLAT = 0.999
"""Share of the pixels of one color from which an image is single-colored."""


class Findings:
    """What an Examiner found in the images so far, about 500 bytes for each.

    `formats` and `modes` hold the entries of each file format and of each of Pillow's modes; `profiles` counts embedded
    ICC profiles by their color space.
    """

    def __init__(self, index: Index) -> None:
        self.index = index
        self.traits = np.zeros(len(index.names), dtype=TRAITS)
        self.formats: defaultdict[str, array[int]] = defaultdict(lambda: array("q"))
        self.modes: defaultdict[str, array[int]] = defaultdict(lambda: array("q"))
        self.profiles = Counter[str]()
        self.bad: dict[int, str] = {}

    def add(self, entries: np.ndarray, pieces: Sequence[bytes]) -> None:
        """Adds the descriptions that an Examiner returned for some images."""
        self.traits[entries] = np.frombuffer(pieces[1], dtype=TRAITS)
        for entry, facts in zip(entries.tolist(), json.loads(bytes(pieces[0])), strict=True):
            if "problem" in facts:
                self.bad[entry] = facts["problem"]
                continue
            self.formats[facts["format"]].append(entry)
            self.modes[facts["mode"]].append(entry)
            if facts["profile"]:
                self.profiles[facts["profile"]] += 1

    @cached_property
    def good(self) -> np.ndarray:
        """Entries int64 [m] of the images that can be read, in order."""
        return np.flatnonzero(self.traits["flags"] & IS_BAD == 0)

    @cached_property
    def sizes(self) -> Counter[tuple[int, int]]:
        """How many images have each (height, width)."""
        traits = self.traits[self.good]
        return Counter(zip(traits["height"].tolist(), traits["width"].tolist(), strict=True))

    @cached_property
    def updated_index(self) -> Index:
        """The index with sizes, flags and problems as found."""
        traits = self.traits
        found = {name: traits[name].copy() for name in ("height", "width", "flags")}
        return replace(self.index, **found, bad=self.bad)

    @cached_property
    def duplicates(self) -> Groups:
        """Groups of images with the same pixels."""
        return equal_groups(self.traits["pixels"], self.good)

    @cached_property
    def near_duplicates(self) -> Groups:
        """Groups of images that look the same; of those with the same pixels only the first, and none of one color."""
        repeats = [entry for group in self.duplicates for entry in group[1:]]
        different = np.setdiff1d(self.good, np.array(repeats, dtype=np.int64))
        return similar_groups(self.traits, different[self.traits["flatness"][different] < FLAT])
