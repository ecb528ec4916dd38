"""Image-space filtering: gains of four frequency bands (Karras et al. 2020, ADA, appendix B)."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

from stylegan_ray.augment.augmentation import Numbers
from stylegan_ray.augment.strengths import Strengths

NUM_BANDS = 4
UNIFORMS = tuple(f"imgfilter.{band}?" for band in range(NUM_BANDS))
NORMALS = tuple(f"imgfilter.{band}" for band in range(NUM_BANDS))

EXPECTED_POWER = torch.tensor([10.0, 1.0, 1.0, 1.0], dtype=torch.float64) / 13
"""Of natural images in each band, whose power falls with the square of the frequency."""

SYM2 = (-0.12940952255126037, 0.2241438680420134, 0.8365163037378079, 0.48296291314453416)
"""Scaling filter of the wavelet sym2 (Daubechies 1992)."""


def filter_bank() -> np.ndarray:
    """Filters [4,43] of the bands, from the lowest frequencies; together they change nothing."""
    low = np.convolve(SYM2, SYM2[::-1]) / 2
    high = low * -((-1.0) ** np.arange(len(low)))
    filters = np.eye(1)  # one filter: all frequencies
    for _ in range(NUM_BANDS - 1):
        # The lowest band so far is split in two; the others stay, at twice the rate.
        spread = np.zeros((len(filters), 2 * filters.shape[1] - 1))
        spread[:, ::2] = filters
        filters = np.stack([np.convolve(row, low) for row in spread])
        filters = np.concatenate([filters, np.zeros((1, filters.shape[1]))])
        middle = (filters.shape[1] - len(high)) // 2
        filters[-1, middle : middle + len(high)] = high
    return filters


HALF_WIDTH = filter_bank().shape[1] // 2
"""Pixels that a filter reaches; images must be larger, since they are continued by reflection."""


def band_gains(strengths: Strengths, numbers: Numbers, p: float) -> Tensor | None:
    """Gains [N,4] of the bands; None for none."""
    if not strengths.imgfilter:
        return None
    gains = torch.ones(len(numbers.uniforms[UNIFORMS[0]]), NUM_BANDS, dtype=torch.float64)
    for band, strength in enumerate(strengths.imgfilter_bands):
        name = f"imgfilter.{band}"
        log2 = numbers.gated(name, strengths.imgfilter * strength * p, numbers.normals[name] * strengths.imgfilter_std)
        factors = torch.ones_like(gains)
        factors[:, band] = log2.exp2()
        gains = gains * factors / (EXPECTED_POWER * factors.square()).sum(dim=1, keepdim=True).sqrt()
    return gains


@functools.cache
def band_matrices(size: int) -> Tensor:
    """Each band's filter along a side of `size` pixels as a matrix, with reflection at the borders: [4,size,size]."""
    filters, matrices = filter_bank(), np.zeros((NUM_BANDS, size, size))
    for row in range(size):
        for offset in range(-HALF_WIDTH, HALF_WIDTH + 1):
            column = abs(row + offset)
            column = min(column, 2 * (size - 1) - column)
            matrices[:, row, column] += filters[:, HALF_WIDTH - offset]
    return torch.from_numpy(matrices)


def filter_bands(images: Tensor, gains: Tensor) -> Tensor:
    """Images [N,C,H,W] with their bands, along both sides, times gains [N,4].

    As products of matrices: they are small beside D, and so are their derivatives of any order.
    """
    rows, columns = (
        torch.einsum("nb,bij->nij", gains, band_matrices(size).to(gains)) for size in images.shape[2:]
    )  # [N,H,H], [N,W,W]
    return rows[:, None] @ images @ columns[:, None].mT


def check_size(size: tuple[int, int]) -> None:
    """Raises ValueError for images (H, W) that are too small."""
    if min(size) <= HALF_WIDTH:
        raise ValueError(
            f"augment.pipe with filter needs images of more than {HALF_WIDTH} pixels a side, not "
            f"{size[1]}x{size[0]}; use bgc"
        )
