"""Which images are doubtful, and why: one rule for each kind of doubt."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from stylegan_ray.data.doctor.findings import FLAT, Findings
from stylegan_ray.data.doctor.traits import STEP, STRAIGHT
from stylegan_ray.data.index import IS_COLOR, IS_TRANSPARENT

COMMON = 0.9
"""What so large a share of the images has in common is the rule; the others are doubtful."""
LEAST_SHARPNESS = 0.34
"""Less sharp images are blurred: no edge in them is steeper than a step blurred by a Gaussian of 1.4 pixels."""
SAME_DETAIL = 0.8
"""Of near-duplicates the first is kept that has at least this share of the detail of any of them."""
LEAST_BAR, LEAST_INSIDE = 0.02, 0.15
"""Bars with straight inner edges on opposite sides are padding when each has this share of the side, and the image
inside this share of the height and of the width."""
STYLE = 0.5
"""A border color that more images than this share have on all four sides is their background, not padding."""
COLOR_STEP = 16
PLAIN_SPACES = frozenset({"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX"})
JPEG_FORMATS = {"JPEG", "MPO"}
"""Some cameras' JPEG files hold a second, smaller image, and are called MPO."""

Reasons = dict[int, str]
"""Why images are doubtful, by entry."""


@dataclass(frozen=True)
class Kind:
    """A way in which an image can be doubtful."""

    name: str
    heading: str
    policy: str
    """What --fix does with such images."""
    find: Callable[[Findings], Reasons]
    leaves_out: bool = False
    """Whether --fix leaves such images out."""


def find_doubts(findings: Findings) -> dict[str, Reasons]:
    """The doubtful images of every kind, by its name."""
    return {kind.name: dict(sorted(kind.find(findings).items())) for kind in KINDS}


def _unreadable(findings: Findings) -> Reasons:
    return dict(findings.bad)


def _duplicate(findings: Findings) -> Reasons:
    return {entry: f"= {_named(findings, first, entry)}" for first, *rest in findings.duplicates for entry in rest}


def _near_duplicate(findings: Findings) -> Reasons:
    """All of a group but one that is not blurred, if there is one, and has the most detail."""
    detail, blurred = detail_of(findings.traits), _is_blurred(findings)
    reasons = {}
    for group in findings.near_duplicates:
        some = [entry for entry in group if not blurred[entry]] or group
        kept = next(entry for entry in some if detail[entry] >= SAME_DETAIL * detail[some].max())
        reasons |= {entry: f"like {_named(findings, kept, entry)}" for entry in group if entry != kept}
    return reasons


def detail_of(traits: np.ndarray) -> np.ndarray:
    """How much detail images have, float [n]: about the same for an image and an enlarged copy of it.

    The sharpness of an edge blurred by a Gaussian of s pixels (see `sharpness_of`) is 1 / STEP and a term that falls
    with the square of s, as the number of pixels rises where an image is enlarged.
    """
    pixels = traits["height"].astype(np.float64) * traits["width"]
    return pixels * np.maximum(traits["sharpness"] - 1 / STEP, 0)


def _named(findings: Findings, kept: int, other: int) -> str:
    """The name of an image of a group, with a note when the other one has another label."""
    labels = findings.index.labels.values
    differs = labels is not None and not np.array_equal(labels[kept], labels[other])
    return findings.index.names[kept] + (", but with another label" if differs else "")


def _single_colored(findings: Findings) -> Reasons:
    flatness = findings.traits["flatness"]
    return {
        entry: f"{100 * flatness[entry]:.4g}% of its pixels have one color"
        for entry in _those(findings, flatness >= FLAT)
    }


def _blurred(findings: Findings) -> Reasons:
    sharpness = findings.traits["sharpness"]
    return {entry: f"sharpness {sharpness[entry]:.2f}" for entry in _those(findings, _is_blurred(findings))}


def _is_blurred(findings: Findings) -> np.ndarray:
    return (findings.traits["sharpness"] < LEAST_SHARPNESS) & (findings.traits["flatness"] < FLAT)


def _padded(findings: Findings) -> Reasons:
    """Images with bars at the top and bottom or at the left and right, unless their color is the usual background."""
    traits, background = findings.traits, common_background(findings)
    sides = np.stack([traits["height"], traits["width"]], axis=1)  # [n,2]
    least = np.maximum(sides * LEAST_BAR, 2)
    is_bar = (traits["bars"] >= least[:, [0, 0, 1, 1]]) & (traits["straightness"] >= STRAIGHT)  # [n,4]
    if background is not None:
        colors = _rounded(traits["bar_colors"])  # [n,2]
        is_bar &= (colors != background)[:, [0, 1, 0, 1]]
    inside = sides - traits["bars"].reshape(-1, 2, 2).sum(axis=2, dtype=np.int64)  # [n,2]
    padded = (is_bar[:, 0] & is_bar[:, 1]) | (is_bar[:, 2] & is_bar[:, 3])
    padded &= (inside >= LEAST_INSIDE * sides).all(axis=1) & (traits["flatness"] < FLAT)
    return {
        entry: "bars of {} px (top), {} (bottom), {} (left), {} (right)".format(*traits["bars"][entry])
        for entry in _those(findings, padded)
    }


def common_background(findings: Findings) -> int | None:
    """The border color, rounded, that most images have on all four sides; None when there is no such color."""
    traits = findings.traits[findings.good]
    colors = _rounded(traits["bar_colors"])
    framed = colors[(traits["bars"] > 0).all(axis=1) & (colors[:, 0] == colors[:, 1])][:, 0]
    values, counts = np.unique(framed, return_counts=True)
    return int(values[counts.argmax()]) if counts.max(initial=0) > STYLE * len(traits) else None


def _rounded(colors: np.ndarray) -> np.ndarray:
    """Colors uint8 [...,3] as numbers, with nearby ones mostly equal."""
    steps = (colors // COLOR_STEP).astype(np.int64)
    return steps[..., 0] << 16 | steps[..., 1] << 8 | steps[..., 2]


def _other_size(findings: Findings) -> Reasons:
    usual = common(findings.sizes)
    if usual is None:
        return {}
    height, width = findings.traits["height"], findings.traits["width"]
    return {
        entry: f"{height[entry]}x{width[entry]}, others {usual[0]}x{usual[1]}"
        for entry in _those(findings, (height != usual[0]) | (width != usual[1]))
    }


def _transparent(findings: Findings) -> Reasons:
    flags = findings.traits["flags"]
    return {entry: "has transparent pixels" for entry in _those(findings, flags & IS_TRANSPARENT != 0)}


def _other_channels(findings: Findings) -> Reasons:
    """Gray files among color ones, or the reverse."""
    is_color, usual = findings.traits["flags"] & IS_COLOR != 0, are_usually_color(findings)
    if usual is None:
        return {}
    reason = "a gray file among color ones" if usual else "a color file among gray ones"
    return {entry: reason for entry in _those(findings, is_color != usual)}


def are_usually_color(findings: Findings) -> bool | None:
    """Whether the files are color ones, but for a few; None where both kinds are usual."""
    return common(Counter((findings.traits["flags"][findings.good] & IS_COLOR != 0).tolist()))


def _deep(findings: Findings) -> Reasons:
    bits = findings.traits["bits"]
    return {entry: f"{bits[entry]} bits per channel" for entry in _those(findings, bits > 8)}


def _other_color_space(findings: Findings) -> Reasons:
    others = {mode: entries for mode, entries in findings.modes.items() if mode.split(";")[0] not in PLAIN_SPACES}
    return {entry: mode for mode, entries in others.items() if mode[0] not in "IF" for entry in entries}


def _several_pages(findings: Findings) -> Reasons:
    frames = findings.traits["num_frames"]
    return {entry: f"{frames[entry]} frames or pages" for entry in _those(findings, frames > 1)}


def _turned(findings: Findings) -> Reasons:
    orientation = findings.traits["orientation"]
    return {entry: f"EXIF orientation {orientation[entry]}" for entry in _those(findings, orientation > 1)}


def _wrong_ending(findings: Findings) -> Reasons:
    known, names = Image.registered_extensions(), findings.index.names
    reasons = {}
    for file_format, entries in findings.formats.items():
        for entry in entries:
            said = known.get(os.path.splitext(names[entry])[1].lower())
            if said is not None and said != file_format and {said, file_format} != JPEG_FORMATS:
                reasons[entry] = f"is {file_format}, its name says {said}"
    return reasons


def _those(findings: Findings, doubtful: np.ndarray) -> Iterator[int]:
    """Entries of readable images for which bool [n] holds."""
    yield from findings.good[doubtful[findings.good]].tolist()


def common(counts: Mapping[Any, int]) -> Any:
    """What at least COMMON of all has; None when there is no such thing."""
    return next((value for value, count in counts.items() if count >= COMMON * sum(counts.values())), None)


KINDS = (
    Kind("unreadable", "Unreadable", "left out", _unreadable, leaves_out=True),
    Kind("duplicate", "Duplicates", "left out; the first by name is kept", _duplicate, leaves_out=True),
    Kind(
        "near-duplicate",
        "Near-duplicates",
        "left out; the one with the most detail is kept",
        _near_duplicate,
        leaves_out=True,
    ),
    Kind("single-coloured", "Single-colored", "left out", _single_colored, leaves_out=True),
    Kind("blurred", "Blurred", "left out", _blurred, leaves_out=True),
    Kind("padded", "Padded", "bars are cut off", _padded),
    Kind("other-size", "Other sizes", "scaled and cropped to the size of the data set", _other_size),
    Kind("transparent", "Transparent", "composited on white, or as --alpha says", _transparent),
    Kind("other-channels", "Other channels", "converted to the channels of the data set", _other_channels),
    Kind("deep", "Over 8 bits", "reduced to 8 bits", _deep),
    Kind("colour-space", "Color spaces", "converted to RGB", _other_color_space),
    Kind("pages", "Pages", "the first one is used", _several_pages),
    Kind("turned", "Turned", "turned upright", _turned),
    Kind("wrong-ending", "Wrong endings", "written with the right ending", _wrong_ending),
)
"""In the order of reports; an image that is left out for several reasons is counted under each."""
KIND_NAMES = tuple(kind.name for kind in KINDS)
