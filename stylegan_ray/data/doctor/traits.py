"""What the doctor measures of one image: sharpness, single colour, bars at the border, and what it looks like."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image

from stylegan_ray.data.decode import DEEP_MODES, UNIT, has_alpha, to_eight_bits

HASH_BYTES = 16
THUMB, CHROMA = 16, 8
"""Sides of the luminance and of the two chrominance planes that near-duplicates are compared by."""

TRAITS = np.dtype(
    [
        ("height", "u4"), ("width", "u4"), ("flags", "u1"), ("num_frames", "u4"), ("orientation", "u1"), ("bits", "u1"),
        ("flatness", "f4"), ("sharpness", "f4"), ("bars", "u4", 4), ("bar_colours", "u1", (2, 3)), ("straightness", "f4", 4),
        ("pixels", "u1", HASH_BYTES), ("look", "u8"), ("luma", "u1", THUMB * THUMB), ("chroma", "u1", 2 * CHROMA * CHROMA),
    ]
)  # fmt: skip
"""One row per image, about 500 bytes; each field is described where it is measured."""

SAME_COLOUR = 4
"""Levels of 255 by which pixels of a single-coloured image may differ from its median."""
SAME_BAR = 10
"""Levels by which pixels of a bar may differ from its corner; JPEG leaves such differences."""
MOST_SHARPNESS_SIDE = 512
"""Sharpness is measured on the central part of larger images."""
STEP = 4
"""Pixels over which the height of an edge is measured."""
LEAST_CONTRAST = 8
"""Levels; without edges of this height sharpness is not defined, and counts as 1."""
TABLE_SIDE, TABLE_BLOCK = 32, 8


class Bars(NamedTuple):
    """Single-coloured lines at the border of an image."""

    thickness: tuple[int, int, int, int]
    """Pixels at the top, bottom, left and right."""
    colours: np.ndarray
    """uint8 [2,3]: the colour of those at the top and left, and of those at the bottom and right."""
    straightness: tuple[float, float, float, float]
    """Share of the first line behind each bar that has another colour; 1 for a bar with a straight inner edge."""

    def box(self, height: int, width: int) -> tuple[int, int, int, int]:
        """The part inside the bars, as (left, top, right, bottom)."""
        top, bottom, left, right = self.thickness
        return left, top, width - right, height - bottom


def on_white(image: Image.Image) -> Image.Image:
    """An RGB image of at most 8 bits, with transparent parts white."""
    if image.mode in DEEP_MODES:
        image = to_eight_bits(image, UNIT if image.mode == "F" else 16)
    if not has_alpha(image):
        return image.convert("RGB")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def flatness_of(rgb: np.ndarray) -> float:
    """Share of the pixels uint8 [H,W,3] that have the median colour, within SAME_COLOUR levels."""
    median = np.median(rgb.reshape(-1, 3), axis=0)
    return float((np.abs(rgb - median) <= SAME_COLOUR).all(axis=2).mean())


def bars_of(rgb: np.ndarray) -> Bars:
    """Bars at the border of an image uint8 [H,W,3]; an image of one colour has none."""
    corners = rgb[[0, -1], [0, -1]]
    near, far = (_differs(rgb, corner) for corner in corners)
    rows, cols = near.any(axis=1), near.any(axis=0)
    if not (rows.any() and far.any()):
        return Bars((0, 0, 0, 0), corners, (0.0, 0.0, 0.0, 0.0))
    top, left = int(rows.argmax()), int(cols.argmax())
    bottom, right = int(far.any(axis=1)[::-1].argmax()), int(far.any(axis=0)[::-1].argmax())
    inside = slice(top, len(rgb) - bottom), slice(left, rgb.shape[1] - right)
    near, far = near[inside], far[inside]
    straight = (near[0].mean(), far[-1].mean(), near[:, 0].mean(), far[:, -1].mean()) if near.size else (0,) * 4
    return Bars((top, bottom, left, right), corners, tuple(map(float, straight)))  # type: ignore[arg-type]


def _differs(rgb: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """Which pixels of uint8 [H,W,3] differ from a colour: bool [H,W]."""
    low, high = colour.astype(np.int16) - SAME_BAR, colour.astype(np.int16) + SAME_BAR
    return ((rgb < low) | (rgb > high)).any(axis=2)


def sharpness_of(grey: np.ndarray) -> float:
    """The height of the steepest steps of one pixel as a share of that of the steepest edges of STEP pixels.

    `grey` is uint8 [H,W]. A hard edge gives 1 and a ramp 1/STEP. A step blurred by a Gaussian of standard deviation s
    gives erf(0.5 / (s sqrt 2)) / erf(2 / (s sqrt 2)): 0.40 for one pixel, 0.29 for two. "Steepest" is the 99.5th
    percentile, so that noise does not decide; the sharper one of both directions counts.
    """
    height, width = grey.shape
    if min(height, width) <= STEP:
        return 1.0
    top, left = (max(side - MOST_SHARPNESS_SIDE, 0) // 2 for side in (height, width))
    grey = grey[top : top + MOST_SHARPNESS_SIDE, left : left + MOST_SHARPNESS_SIDE].astype(np.int16)
    found = [steepness for lines in (grey, grey.T) if (steepness := _steepness(lines)) is not None]
    return max(found, default=1.0)


def _steepness(grey: np.ndarray) -> float | None:
    """The share along the first axis; None without edges."""
    steps = np.percentile(np.abs(grey[1:] - grey[:-1]), 99.5)
    edges = np.percentile(np.abs(grey[STEP:] - grey[:-STEP]), 99.5)
    return float(min(steps / edges, 1.0)) if edges >= LEAST_CONTRAST else None


def look_of(image: Image.Image) -> tuple[np.uint64, np.ndarray, np.ndarray]:
    """What an RGB image looks like: a 64-bit hash, its luminance uint8 [16*16] and chrominance uint8 [2*8*8].

    The hash holds which of 64 low frequencies of the discrete cosine transform of the luminance at 32x32 are above
    their median (C. Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010, section 3.2.1).
    Deviation: a hundredth of the largest one above it, since symmetrical drawings have many frequencies of about 0.
    """
    small = image.convert("YCbCr").resize((TABLE_SIDE, TABLE_SIDE), Image.Resampling.BOX)
    planes = np.asarray(small, dtype=np.float32)  # [32,32,3]
    luma, chroma = planes[..., 0], planes[..., 1:].transpose(2, 0, 1)
    waves = (COSINES @ luma @ COSINES.T)[1 : TABLE_BLOCK + 1, 1 : TABLE_BLOCK + 1].ravel()
    bits = waves > np.median(waves) + 0.01 * np.abs(waves).max()
    return (
        np.packbits(bits).view(">u8")[0].astype(np.uint64),
        _shrunk(luma[None], THUMB),
        _shrunk(chroma, CHROMA),
    )


def _shrunk(planes: np.ndarray, side: int) -> np.ndarray:
    """Planes [P,32,32] at a smaller side, by means, as uint8 [P*side*side]."""
    times = TABLE_SIDE // side
    means = planes.reshape(len(planes), side, times, side, times).mean(axis=(2, 4))
    return means.round().astype(np.uint8).ravel()


def _cosines(side: int) -> np.ndarray:
    """The matrix of the discrete cosine transform II [side,side], without its scale."""
    places = np.arange(side)
    return np.cos(np.pi / side * (places[None] + 0.5) * places[:, None]).astype(np.float32)


COSINES = _cosines(TABLE_SIDE)
