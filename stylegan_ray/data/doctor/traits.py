"""What the doctor measures of one image: sharpness, single color, bars at the border, and what it looks like."""

from __future__ import annotations

from functools import reduce
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageChops

from stylegan_ray.data.decode import has_alpha, remove_alpha, strips

HASH_BYTES = 16
THUMB, CHROMA = 16, 8
"""Sides of the luminance and of the two chrominance planes that near-duplicates are compared by."""

TRAITS = np.dtype(
    [
        ("height", "u4"), ("width", "u4"), ("flags", "u1"),
        ("num_frames", "u4"), ("orientation", "u1"), ("bits", "u1"),
        ("flatness", "f4"), ("sharpness", "f4"),
        ("bars", "u4", 4), ("bar_colors", "u1", (2, 3)), ("straightness", "f4", 4),
        ("pixels", "u1", HASH_BYTES), ("look", "u8"),
        ("luma", "u1", THUMB * THUMB), ("chroma", "u1", 2 * CHROMA * CHROMA),
    ]
)  # fmt: skip
"""One row per image, about 500 bytes; each field is described where it is measured."""

SAME_COLOR = 4
"""Levels of 255 by which pixels of a single-colored image may differ from its median."""
SAME_BAR = 10
"""Levels by which pixels of a bar may differ from its corner; JPEG leaves such differences."""
STRAIGHT, STRAIGHT_IN_BLOCK = 0.75, 0.9
"""Straightness from which the inner edge of a bar is straight; the second number is for one that is spread."""
BLOCK, BEFORE_EDGE, MOST_BEFORE = 17, 3, 0.1
"""Lines over which JPEG spreads an edge of a bar: its blocks have 16 where colors have half the resolution, and one
more is interpolated. In lines 3 and more before the edge, at most a tenth of the pixels differs half as much as behind
it."""
CORNER = 8
"""Pixels of the lines at a corner that have the color of a bar there."""
MOST_SHARPNESS_SIDE = 512
"""Sharpness is measured on the central part of larger images."""
STEP = 4
"""Pixels over which the height of an edge is measured."""
LEAST_CONTRAST = 8
"""Levels; without edges of this height sharpness is not defined, and counts as 1."""
STEEPEST = 0.995
IS_BEYOND_BAR = [0] * (SAME_BAR + 1) + [255] * (255 - SAME_BAR)
TABLE_SIDE, TABLE_BLOCK = 32, 8


class Bars(NamedTuple):
    """Single-colored lines at the border of an image."""

    thickness: tuple[int, int, int, int]
    """Pixels at the top, bottom, left and right."""
    colors: np.ndarray
    """uint8 [2,3]: the color of those at the top and left, and of those at the bottom and right."""
    straightness: tuple[float, float, float, float]
    """Share of the first line behind each bar that has another color; 1 for a bar with a straight inner edge.

    0 where the color changes gradually.
    """

    def box(self, height: int, width: int) -> tuple[int, int, int, int]:
        """The part inside the bars, as (left, top, right, bottom)."""
        top, bottom, left, right = self.thickness
        return left, top, width - right, height - bottom


def on_white(image: Image.Image) -> Image.Image:
    """An RGB image of one of at most 8 bits, with transparent parts white."""
    if has_alpha(image):
        return remove_alpha(image, "white")
    return image if image.mode == "RGB" else image.convert("RGB")


def flatness_of(image: Image.Image) -> float:
    """Share of the pixels of an RGB image that have its median color, within SAME_COLOR levels in each channel."""
    counts = np.array(image.histogram()).reshape(3, 256)
    shares = []
    for channel in counts:
        median = int(np.searchsorted(channel.cumsum(), channel.sum() / 2))
        shares.append(channel[max(median - SAME_COLOR, 0) : median + SAME_COLOR + 1].sum() / channel.sum())
    return float(min(shares))


def bars_of(image: Image.Image) -> Bars:
    """Bars at the border of an RGB image; an image of one color has none."""
    width, height = image.size
    colors = np.stack([_corner_color(image, (0, 0)), _corner_color(image, (width - 1, height - 1))])
    near, far = (_differs(image, tuple(color.tolist())).getbbox() for color in colors)
    bars = Bars((0, 0, 0, 0), colors, (0.0, 0.0, 0.0, 0.0))
    if near is None or far is None or near[0] >= far[2] or near[1] >= far[3]:
        return bars
    clean = (near[1], height - far[3], near[0], width - far[2])
    bars = bars._replace(thickness=clean)
    for _ in range(2):  # the second time without the other bars at the ends of the lines, as the first has found them
        edges = [_inner_edge(*_levels(image, bars, side, clean), clean[side]) for side in range(4)]
        bars = bars._replace(thickness=tuple(bar for bar, _ in edges), straightness=tuple(share for _, share in edges))
    return bars


def _corner_color(image: Image.Image, corner: tuple[int, int]) -> np.ndarray:
    """The median color uint8 [3] of the ends of both lines at a corner: one of them is in a bar, and JPEG varies it."""
    (x, y), (width, height) = corner, image.size
    left, top = max(x - CORNER + 1, 0), max(y - CORNER + 1, 0)
    lines = (left, y, min(left + CORNER, width), y + 1), (x, top, x + 1, min(top + CORNER, height))
    pixels = np.concatenate([np.asarray(image.crop(line)).reshape(-1, 3) for line in lines])
    return np.median(pixels, axis=0).astype(np.uint8)


def _levels(image: Image.Image, bars: Bars, side: int, clean: tuple[int, ...]) -> tuple[np.ndarray, int]:
    """Levels by which lines [lines,length] near a side differ from the color of its bar, and the number of the first.

    They begin within the clean lines of a bar, and end where its inner edge must be, or in the middle of the image.
    """
    inside = image.size[side < 2] - clean[side] - clean[side ^ 1]
    first, last = max(clean[side] - BEFORE_EDGE, 0), clean[side] + min(BLOCK, (inside - 1) // 2)
    left, top, right, bottom = bars.box(image.height, image.width)
    box = (
        (left, first, right, last + 1), (left, image.height - 1 - last, right, image.height - first),
        (first, top, last + 1, bottom), (image.width - 1 - last, top, image.width - first, bottom),
    )[side]  # fmt: skip
    pixels = np.asarray(image.crop(box)).astype(np.int16)  # [H,W,3]
    lines = pixels.swapaxes(0, side // 2)[:: -1 if side % 2 else 1]
    return np.abs(lines - bars.colors[side % 2]).max(axis=2), first


def _inner_edge(levels: np.ndarray, first: int, clean: int) -> tuple[int, float]:
    """Thickness and straightness of a bar that has so many clean lines, from the levels of lines near its inner edge.

    Lossy formats spread an edge over a block. It is where the median reaches half of its largest value; in lines
    well before it hardly a pixel does, as they do in a gradient.
    """
    strength, shares = np.median(levels, axis=1), (levels > SAME_BAR).mean(axis=1)
    end = clean - first
    edge = end + int(np.argmax(strength[end:] >= strength[end:].max() / 2))
    bar = max(edge - BEFORE_EDGE + 1, 0)
    varied = (levels[:bar] > strength[edge] / 2).mean(axis=1)
    if varied.max(initial=0) > MOST_BEFORE or strength[:bar].max(initial=0) > SAME_BAR:
        return clean, 0.0
    if bar and shares[edge] >= STRAIGHT_IN_BLOCK:
        end = edge
    return first + end, float(shares[end])


def _differs(image: Image.Image, color: object) -> Image.Image:
    """A gray image of 255 where an RGB image differs from a color by more than SAME_BAR levels, else 0."""
    result = Image.new("L", image.size)
    for top, strip in strips(image):
        difference = ImageChops.difference(strip, Image.new("RGB", strip.size, color))  # type: ignore[arg-type]
        result.paste(reduce(ImageChops.lighter, difference.split()).point(IS_BEYOND_BAR), (0, top))
    return result


def sharpness_of(gray: Image.Image) -> float:
    """The height of the steepest steps of one pixel as a share of that of the steepest edges of STEP pixels.

    A hard edge gives 1 and a ramp 1/STEP. A step blurred by a Gaussian of standard deviation s gives
    erf(0.5 / (s sqrt 2)) / erf(2 / (s sqrt 2)): 0.40 for one pixel, 0.29 for two. "Steepest" is the 99.5th percentile,
    so that noise does not decide; the sharper one of both directions counts. 1 where there is no edge.
    """
    left, top = (max(side - MOST_SHARPNESS_SIDE, 0) // 2 for side in gray.size)
    right, bottom = (min(side, MOST_SHARPNESS_SIDE) + first for side, first in zip(gray.size, (left, top), strict=True))
    gray = gray.crop((left, top, right, bottom))
    found = []
    for direction in (0, 1):
        if gray.size[direction] > STEP:
            step, edge = (_steepest(gray, direction, distance) for distance in (1, STEP))
            found += [min(step / edge, 1.0)] if edge >= LEAST_CONTRAST else []
    return max(found, default=1.0)


def _steepest(gray: Image.Image, direction: int, distance: int) -> int:
    """The 99.5th percentile of differences between pixels at a distance, along the width (0) or the height (1)."""
    width, height = gray.size
    x, y = (distance, 0) if direction == 0 else (0, distance)
    first, second = gray.crop((0, 0, width - x, height - y)), gray.crop((x, y, width, height))
    counts = ImageChops.difference(first, second).histogram()
    return int(np.searchsorted(np.cumsum(counts), STEEPEST * sum(counts)))


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
