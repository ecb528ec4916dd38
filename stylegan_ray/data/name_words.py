"""Words in names of files and folders, and what names say that files are: masks, covers."""

from __future__ import annotations

import re

WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[^\W\d_A-Z]+")
"""Letters up to a capital, digit or sign: train2017, seg_train and leftImg8bit begin with train, seg and left."""
MASKS = frozenset(
    "mask masks label labels annotation annotations segmentation segmentations segm seg trimap trimaps matte "
    "mattes".split()
)
GROUND_TRUTH = re.compile(r"(?:^|/)gt(?:[/_]|fine|coarse|\Z)|[_-]gt\.|ground.?truth", re.IGNORECASE)
"""Not gt anywhere, which is a word in names of cars."""
IMAGES = frozenset("image images img imgs photo photos picture pictures rgb input inputs frame frames".split())
COVERS = frozenset(
    "cover covers thumbnail thumb preview previews logo icon banner teaser sample samples example examples figure "
    "figures fig overview screenshot screenshots assets docs".split()
)
IN_MASKS = ("mask", "label", "annot", "seg", "trimap", "matte", "truth", "gt/", "gt_", "gt.", "gtfine", "gtcoarse")
"""In the names of all masks and of few other files; it is faster than to find words."""


def words_of(name: str) -> list[str]:
    """The words of a name, in small letters."""
    return [word.lower() for word in WORD.findall(name)]


def may_name_masks(names: str) -> bool:
    """Whether the name of a file, or any of several that are joined, may be that of masks."""
    small = names.lower()
    return any(part in small for part in IN_MASKS)


def is_mask(name: str) -> bool:
    """Whether the name of a file or folder says that it is, or holds, masks or labels of images."""
    return not MASKS.isdisjoint(words_of(name)) or GROUND_TRUTH.search(name) is not None


def is_of_images(name: str) -> bool:
    """Whether the name of a folder says no more than that it holds images."""
    return not IMAGES.isdisjoint(words_of(name)) and not is_mask(name)


def is_cover(name: str) -> bool:
    """Whether the name of an image says that it shows what a data set is like."""
    return not COVERS.isdisjoint(words_of(name))
