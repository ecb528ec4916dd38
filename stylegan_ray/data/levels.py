"""Smaller versions of a picture: level k is the mean over squares of 2^k pixels, rounded half to even."""

from __future__ import annotations

import numpy as np


def reduced(pixels: np.ndarray, level: int) -> np.ndarray:
    """uint8 [...,H,W] at level 0 to uint8 [...,H>>level,W>>level].

    Equal to the TFRecord exporter's chain of 2x2 means in float32 without rounding between: those are exact.
    """
    if level == 0:
        return pixels
    *lead, height, width = pixels.shape
    step = 1 << level
    squares = pixels.reshape(*lead, height >> level, step, width >> level, step)
    total = squares.sum(axis=(-3, -1), dtype=np.uint32)  # exact: at most 255 * 4^level
    return np.rint(total / (step * step)).astype(np.uint8)


def pyramid(pixels: np.ndarray, num_levels: int) -> list[np.ndarray]:
    """uint8 [...,H,W] at levels 0 to num_levels-1; each level is summed from the one before, which saves most work."""
    levels, total = [pixels], pixels.astype(np.uint32)
    for level in range(1, num_levels):
        total = total[..., ::2, :] + total[..., 1::2, :]
        total = total[..., ::2] + total[..., 1::2]  # [...,H>>level,W>>level]  exact, as in `reduced`
        levels.append(np.rint(total / 4**level).astype(np.uint8))
    return levels
