"""Pixel blitting and geometric transformations as one matrix (Karras et al. 2020, ADA, appendix B).

A matrix [N,3,3] maps positions in the augmented image to positions in the image before, (x, y, 1) in pixels from the
center. It is the inverse of the transformation, so the first transformation is the leftmost factor.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stylegan_ray.augment.augmentation import Numbers
from stylegan_ray.augment.strengths import BLIT, GEOMETRY, Strengths

UNIFORMS = (
    "xflip", "xflip?", "rotate90", "rotate90?", "xint.x", "xint.y", "xint?",
    "scale?", "rotate.before", "rotate.before?", "aniso?", "rotate.after", "rotate.after?", "xfrac?",
)  # fmt: skip
NORMALS = ("scale", "aniso", "xfrac.x", "xfrac.y")


def inverse_matrix(strengths: Strengths, numbers: Numbers, p: float, size: tuple[int, int]) -> Tensor | None:
    """The matrix [N,3,3] of all blitting and geometric transformations of images of a size (H, W); None for none."""
    if not strengths.any_of(*BLIT, *GEOMETRY):
        return None
    return _blitting(strengths, numbers, p, size) @ _geometry(strengths, numbers, p, size)


def _blitting(strengths: Strengths, numbers: Numbers, p: float, size: tuple[int, int]) -> Tensor:
    u = numbers.uniforms
    flips = numbers.gated("xflip", strengths.xflip * p, (u["xflip"] * 2).floor())
    quarters = numbers.gated("rotate90", strengths.rotate90 * p, (u["rotate90"] * 4).floor())
    x, y = (
        numbers.gated("xint", strengths.xint * p, ((u[f"xint.{axis}"] * 2 - 1) * strengths.xint_max * length).round())
        for axis, length in (("x", size[1]), ("y", size[0]))
    )
    return scaling(1 - 2 * flips, torch.ones_like(flips)) @ rotation(quarters * (math.pi / 2)) @ translation(-x, -y)


def _geometry(strengths: Strengths, numbers: Numbers, p: float, size: tuple[int, int]) -> Tensor:
    u, n = numbers.uniforms, numbers.normals
    scale = torch.exp2(-numbers.gated("scale", strengths.scale * p, n["scale"] * strengths.scale_std))
    aniso = torch.exp2(numbers.gated("aniso", strengths.aniso * p, n["aniso"] * strengths.aniso_std))
    # Each rotation happens so often that at least one of them happens with probability p.
    each = 1 - math.sqrt(1 - min(max(strengths.rotate * p, 0.0), 1.0))
    before, after = (
        numbers.gated(f"rotate.{when}", each, (u[f"rotate.{when}"] * 2 - 1) * (math.pi * strengths.rotate_max))
        for when in ("before", "after")
    )
    x, y = (
        numbers.gated("xfrac", strengths.xfrac * p, n[f"xfrac.{axis}"] * (strengths.xfrac_std * length))
        for axis, length in (("x", size[1]), ("y", size[0]))
    )
    return scaling(scale, scale) @ rotation(before) @ scaling(1 / aniso, aniso) @ rotation(after) @ translation(-x, -y)


def scaling(x: Tensor, y: Tensor) -> Tensor:
    """Matrices [N,3,3] that scale by x and y [N]."""
    return torch.diag_embed(torch.stack([x, y, torch.ones_like(x)], dim=1))


def rotation(angle: Tensor) -> Tensor:
    """Matrices [N,3,3] that rotate by an angle [N] in radians."""
    cos, sin = angle.cos(), angle.sin()
    matrix = scaling(cos, cos)
    matrix[:, 0, 1], matrix[:, 1, 0] = -sin, sin
    return matrix


def translation(x: Tensor, y: Tensor) -> Tensor:
    """Matrices [N,3,3] that translate by x and y [N]."""
    matrix = scaling(torch.ones_like(x), torch.ones_like(y))
    matrix[:, 0, 2], matrix[:, 1, 2] = x, y
    return matrix
