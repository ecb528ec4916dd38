"""Additive noise and cutout (Karras et al. 2020, ADA, appendix B)."""

from __future__ import annotations

import torch
from torch import Tensor

from stylegan_ray.augment.augmentation import Numbers
from stylegan_ray.augment.strengths import Strengths

UNIFORMS = ("noise?", "cutout?", "cutout.x", "cutout.y")
NORMALS = ("noise",)


def noise_sigma(strengths: Strengths, numbers: Numbers, p: float) -> Tensor | None:
    """Standard deviation [N] of the noise; None for none."""
    if not strengths.noise:
        return None
    return numbers.gated("noise", strengths.noise * p, numbers.normals["noise"].abs() * strengths.noise_std)


def cutout_mask(strengths: Strengths, numbers: Numbers, p: float, size: tuple[int, int]) -> Tensor | None:
    """0 inside of the squares that are cut out, else 1: [N,1,H,W]; None for none."""
    if not strengths.cutout:
        return None
    side = torch.full_like(numbers.uniforms["cutout.x"], strengths.cutout_size)
    side = numbers.gated("cutout", strengths.cutout * p, side)[:, None]
    outside = [
        (centers_of_pixels(length) - numbers.uniforms[f"cutout.{axis}"][:, None]).abs() >= side / 2
        for axis, length in (("x", size[1]), ("y", size[0]))
    ]  # [N,W], [N,H]
    return (outside[1][:, :, None] | outside[0][:, None, :])[:, None].double()


def centers_of_pixels(num: int) -> Tensor:
    """Positions [num] of pixels along a side of length 1."""
    return (torch.arange(num, dtype=torch.float64) + 0.5) / num
