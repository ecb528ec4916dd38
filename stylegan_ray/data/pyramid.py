"""Smaller versions of an image: level k is the mean over squares of 2^k pixels, rounded half to even."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

UINT16_LEVELS = 4
"""The sum over a square of 2^4 pixels, and what rounding adds, fit into 16 bits."""


def downscale(pixels: np.ndarray, level: int) -> np.ndarray:
    """uint8 [...,H,W] at level 0 to uint8 [...,H>>level,W>>level].

    Equal to the TFRecord exporter's chain of 2x2 means in float32: without rounding between levels these are exact.
    """
    if level == 0:
        return pixels
    *_, total = _sums(pixels, level)
    return _mean(total, level)


def pyramid(pixels: np.ndarray, num_levels: int) -> list[np.ndarray]:
    """uint8 [...,H,W] at levels 0 to num_levels-1."""
    sums = enumerate(_sums(pixels, num_levels - 1), 1)
    return [pixels, *(_mean(total, level) for level, total in sums)]


def _sums(pixels: np.ndarray, level: int) -> Iterator[np.ndarray]:
    """The exact sums over the squares of levels 1, 2, ..., each computed from the one before."""
    total = pixels.astype(np.uint16 if level <= UINT16_LEVELS else np.uint32)
    for _ in range(level):
        total = total[..., ::2, :] + total[..., 1::2, :]
        total = total[..., ::2] + total[..., 1::2]
        yield total


def _mean(total: np.ndarray, level: int) -> np.ndarray:
    """Sums over squares of 2^level pixels divided by their number, in whole numbers."""
    shift = total.dtype.type(2 * level)
    below_half = total.dtype.type((1 << 2 * level - 1) - 1)
    is_odd = (total >> shift) & total.dtype.type(1)
    return ((total + below_half + is_odd) >> shift).astype(np.uint8)
