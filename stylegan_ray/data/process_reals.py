"""Turns images as a data set stores them into images as D sees them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stylegan_ray.networks.growing import enlarge


def process_reals(
    images: Tensor,
    lod: float = 0.0,
    mirror: Tensor | None = None,
    drange_net: tuple[float, float] = (-1.0, 1.0),
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """uint8 [N,C,H,W] at level floor(lod) to full-size images in drange_net; images where `mirror` is set are flipped.

    Between two levels of detail an image is blended with its own 2x2 means (Karras et al. 2018, section 2).
    """
    low, high = drange_net
    x = images.to(dtype) * ((high - low) / 255) + low
    if mirror is not None:
        x = torch.where(mirror.to(x.device)[:, None, None, None], x.flip(3), x)
    level = math.floor(lod)
    fade = lod - level
    if fade > 0:
        x = x.lerp(enlarge(torch.nn.functional.avg_pool2d(x, 2), 2), fade)
    return enlarge(x, 2**level)
