"""Color transformations as one matrix (Karras et al. 2020, ADA, appendix B).

A matrix [N,4,4] maps colors (r, g, b, 1) to those after it; the last transformation is the leftmost factor.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stylegan_ray.augment.augmentation import Numbers
from stylegan_ray.augment.strengths import COLOR, Strengths

UNIFORMS = ("brightness?", "contrast?", "lumaflip", "lumaflip?", "hue", "hue?", "saturation?")
NORMALS = ("brightness", "contrast", "saturation")

LUMA = torch.tensor([1.0, 1.0, 1.0, 0.0], dtype=torch.float64) / math.sqrt(3)
"""The axis of grays."""
PROJECTION = torch.outer(LUMA, LUMA)
"""Onto the axis of grays."""
CROSS = torch.tensor([[0.0, -1, 1, 0], [1, 0, -1, 0], [-1, 1, 0, 0], [0, 0, 0, 0]], dtype=torch.float64) / math.sqrt(3)
"""The cross product of the axis of grays with a color."""
COLORS = torch.diag(torch.tensor([1.0, 1.0, 1.0, 0.0], dtype=torch.float64))
ONE = torch.diag(torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64))


def color_matrix(strengths: Strengths, numbers: Numbers, p: float, num_channels: int) -> Tensor | None:
    """The matrix [N,C,C+1] of all color transformations of images with C channels, 1 or 3; None for none.

    Gray images take the mean of what happens to the three colors; hue and saturation mean nothing for them.
    """
    if not strengths.any_of(*COLOR):
        return None
    matrix = _saturation(strengths, numbers, p) @ _hue(strengths, numbers, p) if num_channels == 3 else COLORS + ONE
    matrix = matrix @ _luma_flip(strengths, numbers, p) @ _contrast(strengths, numbers, p)
    matrix = (matrix @ _brightness(strengths, numbers, p))[:, :3]  # [N,3,4]
    if num_channels == 3:
        return matrix
    gray = matrix.mean(dim=1, keepdim=True)  # [N,1,4]
    return torch.cat([gray[..., :3].sum(dim=2, keepdim=True), gray[..., 3:]], dim=2)  # [N,1,2]


def _brightness(strengths: Strengths, numbers: Numbers, p: float) -> Tensor:
    amount = numbers.normals["brightness"] * strengths.brightness_std
    amount = numbers.gated("brightness", strengths.brightness * p, amount)
    matrix = (COLORS + ONE).repeat(len(amount), 1, 1)
    matrix[:, :3, 3] = amount[:, None]
    return matrix


def _contrast(strengths: Strengths, numbers: Numbers, p: float) -> Tensor:
    log2 = numbers.normals["contrast"] * strengths.contrast_std
    return _times(numbers.gated("contrast", strengths.contrast * p, log2).exp2(), COLORS) + ONE


def _luma_flip(strengths: Strengths, numbers: Numbers, p: float) -> Tensor:
    """A Householder reflection across the plane of no luma."""
    flip = numbers.gated("lumaflip", strengths.lumaflip * p, (numbers.uniforms["lumaflip"] * 2).floor())
    return COLORS + ONE - _times(2 * flip, PROJECTION)


def _hue(strengths: Strengths, numbers: Numbers, p: float) -> Tensor:
    """A rotation around the axis of grays, by Rodrigues' formula."""
    angle = (numbers.uniforms["hue"] * 2 - 1) * (math.pi * strengths.hue_max)
    angle = numbers.gated("hue", strengths.hue * p, angle)
    turned = _times(angle.cos(), COLORS - PROJECTION) + _times(angle.sin(), CROSS)
    return PROJECTION + turned + ONE


def _saturation(strengths: Strengths, numbers: Numbers, p: float) -> Tensor:
    """Scales the distance from the axis of grays."""
    log2 = numbers.normals["saturation"] * strengths.saturation_std
    factor = numbers.gated("saturation", strengths.saturation * p, log2).exp2()
    return PROJECTION + _times(factor, COLORS - PROJECTION) + ONE


def _times(factors: Tensor, matrix: Tensor) -> Tensor:
    """A multiple of the matrix for each factor: [N,4,4]."""
    return factors[:, None, None] * matrix
