"""Groups of images that are the same or look the same, found without comparing each with each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import combinations

import numpy as np

from stylegan_ray.data.doctor.traits import THUMB

NUM_BANDS, SAME_BANDS = 8, 3
"""Hashes are cut into 8 bands of 8 bits. Two hashes that differ in at most 5 bits agree in at least 3 of the bands."""
MOST_BITS = NUM_BANDS - SAME_BANDS
MOST_NEIGHBORS = 64
"""Hashes that agree in the same bands are compared with so many that follow them, at most."""
MOST_DIFFERENCE, MOST_LOCAL, MOST_CHROMA = 0.005, 0.5, 12
"""Bounds on how different two images that look the same may be (see `looks_same`)."""
GRAY = 128
"""Chrominance of gray."""
CHUNK = 1 << 16

Groups = list[list[int]]


def equal_groups(hashes: np.ndarray, entries: np.ndarray) -> Groups:
    """Groups of the entries whose hashes uint8 [n,b] are equal, in the order of entries."""
    if not len(entries):
        return []
    keys = np.ascontiguousarray(hashes[entries]).view(f"V{hashes.shape[1]}")[:, 0]
    _, place, counts = np.unique(keys, return_inverse=True, return_counts=True)
    repeated = np.flatnonzero(counts[place] > 1)
    groups: dict[int, list[int]] = {}
    for i in repeated.tolist():
        groups.setdefault(int(place[i]), []).append(int(entries[i]))
    return list(groups.values())


def similar_groups(traits: np.ndarray, entries: np.ndarray) -> Groups:
    """Groups of the entries that look the same: linked by pairs whose `look` differs in at most 5 bits.

    Follows the tables of G. S. Manku, A. Jain and A. Das Sarma, Detecting Near-Duplicates for Web Crawling (WWW 2007),
    section 3: hashes are sorted by each choice of 3 of 8 bands, and those next to each other are compared.
    """
    looks, first, place = np.unique(traits["look"][entries], return_index=True, return_inverse=True)
    links = Links(len(entries))
    by_look = np.argsort(place, kind="stable")
    _link_similar(links, traits, entries, np.stack([by_look[:-1], by_look[1:]], 1)[np.diff(place[by_look]) == 0])
    for pairs in similar_hashes(looks):
        _link_similar(links, traits, entries, first[pairs])
    return [entries[group].tolist() for group in links.groups()]


def similar_hashes(hashes: np.ndarray) -> Iterator[np.ndarray]:
    """Pairs int64 [n,2] of places in hashes uint64 [m], all different, that differ in at most 5 bits; some repeat."""
    bands = hashes[:, None].astype(">u8").view(np.uint8).reshape(-1, NUM_BANDS).astype(np.uint32)
    for a, b, c in combinations(range(NUM_BANDS), SAME_BANDS):
        keys = bands[:, a] << 16 | bands[:, b] << 8 | bands[:, c]
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        places = np.arange(len(order))
        for ahead in range(1, MOST_NEIGHBORS + 1):
            places = places[places + ahead < len(order)]
            places = places[ordered[places] == ordered[places + ahead]]
            if not len(places):
                break
            pairs = np.stack([order[places], order[places + ahead]], axis=1)
            yield pairs[np.bitwise_count(hashes[pairs[:, 0]] ^ hashes[pairs[:, 1]]) <= MOST_BITS]


def _link_similar(links: Links, traits: np.ndarray, entries: np.ndarray, pairs: np.ndarray) -> None:
    for start in range(0, len(pairs), CHUNK):
        some = pairs[start : start + CHUNK]
        same = looks_same(traits[entries[some[:, 0]]], traits[entries[some[:, 1]]])
        for a, b in some[same].tolist():
            links.link(a, b)


def looks_same(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Whether images look the same, by their traits [n]: bool [n].

    Luminances [16,16] of mean 0 and variance 1, so that brightness and contrast do not count, differ by a squared
    distance of at most MOST_DIFFERENCE (1 less the correlation) and nowhere by more than MOST_LOCAL; chrominances
    [8,8] nowhere by more than MOST_CHROMA levels, as they are or with the same contrast as the luminances.
    """
    (a, contrast_a), (b, contrast_b) = (_normalized(traits["luma"]) for traits in (first, second))
    color_a, color_b = (traits["chroma"].astype(np.float32) - GRAY for traits in (first, second))
    highest = np.maximum(contrast_a, contrast_b)
    chroma = np.minimum(_largest(color_a - color_b), _largest((color_a / contrast_a - color_b / contrast_b) * highest))
    difference = np.square(a - b).sum(axis=1) / (2 * THUMB * THUMB)
    return (difference <= MOST_DIFFERENCE) & (_largest(a - b) <= MOST_LOCAL) & (chroma <= MOST_CHROMA)


def _normalized(luma: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Luminances [n,256] with mean 0 and variance 1, and their standard deviations [n,1], at least 1."""
    values = luma.astype(np.float32)
    values -= values.mean(axis=1, keepdims=True)
    deviation = np.maximum(values.std(axis=1, keepdims=True), 1)
    return values / deviation, deviation


def _largest(differences: np.ndarray) -> np.ndarray:
    """The largest absolute value of each row."""
    return np.abs(differences).max(axis=1)


class Links:
    """Things that are linked directly or through others (a disjoint-set forest)."""

    def __init__(self, num: int) -> None:
        self.parent = np.arange(num)
        self.linked: set[int] = set()

    def root(self, item: int) -> int:
        parent = self.parent
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = int(parent[item])
        return item

    def link(self, a: int, b: int) -> None:
        self.linked |= {a, b}
        low, high = sorted((self.root(a), self.root(b)))
        self.parent[high] = low

    def groups(self) -> Iterable[list[int]]:
        """Groups of two and more, each sorted, by their first member."""
        found: dict[int, list[int]] = {}
        for item in sorted(self.linked):
            found.setdefault(self.root(item), []).append(item)
        return found.values()
