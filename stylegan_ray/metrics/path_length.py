"""Perceptual path length: how much the image changes along a short step between two latents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from stylegan_ray.metrics.statistics import Array

Space = Literal["z", "w"]
Sampling = Literal["full", "end"]


def perceptual_path_length(distances: Array, other: Array | None = None, epsilon: float = 1e-4) -> float:
    """Mean distance without the outermost percentiles (Karras et al. 2019, sec. 4.1).

    The arguments are distances [N], or features [N,F] of both ends of the steps: distances are then their squared
    differences over epsilon^2.
    """
    values = np.asarray(distances, dtype=np.float64)
    if other is not None:
        values = np.square(values - np.asarray(other, dtype=np.float64)).sum(axis=1) / epsilon**2
    if values.ndim != 1 or not len(values):
        raise ValueError(f"distances must be a list of numbers, one per step, but their shape is {list(values.shape)}")
    low, high = np.percentile(values, 1, method="lower"), np.percentile(values, 99, method="higher")
    return float(values[(values >= low) & (values <= high)].mean())


def slerp(a: Tensor, b: Tensor, t: Tensor | float) -> Tensor:
    """Points at t on great circles from a to b, normalized to unit length (Shoemake 1985)."""
    a, b = (x / x.norm(dim=-1, keepdim=True) for x in (a, b))
    cosine = (a * b).sum(dim=-1, keepdim=True)
    across = b - cosine * a
    angle = t * cosine.acos()
    point = a * angle.cos() + across / across.norm(dim=-1, keepdim=True) * angle.sin()
    return point / point.norm(dim=-1, keepdim=True)


def lerp(a: Tensor, b: Tensor, t: Tensor | float) -> Tensor:
    """Points at t on the lines from a to b."""
    return a + (b - a) * t


@dataclass(frozen=True)
class PathSettings:
    """One kind of path length."""

    space: Space = "w"
    sampling: Sampling = "full"
    crop: bool = True
    epsilon: float = 1e-4


def path_ends(
    mapping: Callable[[Tensor], Tensor], z0: Tensor, z1: Tensor, t: Tensor, settings: PathSettings
) -> tuple[Tensor, Tensor]:
    """w [N,w] at both ends of a step of epsilon, at t [N] between z0 and z1 [N,z]; sampling "end" steps from z0."""
    start = (t if settings.sampling == "full" else torch.zeros_like(t))[:, None]
    if settings.space == "w":
        w0, w1 = mapping(torch.cat([z0, z1])).chunk(2)
        return lerp(w0, w1, start), lerp(w0, w1, start + settings.epsilon)
    ends = [slerp(z0, z1, start), slerp(z0, z1, start + settings.epsilon)]
    w0, w1 = mapping(torch.cat(ends)).chunk(2)
    return w0, w1


def as_seen(images: Tensor, crop: bool, drange: tuple[float, float] = (-1.0, 1.0)) -> Tensor:
    """Generated images [N,C,H,W] as the perceptual network expects them: cropped to the face, at most 256 px, 0..255.

    The crop is the original's for aligned faces: rows 3/8 to 7/8, columns 2/8 to 6/8.
    """
    if crop:
        h, w = images.shape[2] // 8, images.shape[3] // 8
        images = images[:, :, 3 * h : 7 * h, 2 * w : 6 * w]
    factor = images.shape[2] // 256
    if factor > 1:
        images = torch.nn.functional.avg_pool2d(images, factor)
    return (images - drange[0]) * (255 / (drange[1] - drange[0]))


def path_distances(features0: Tensor, features1: Tensor, epsilon: float) -> Tensor:
    """Squared distances [N] of features [N,F] at both ends, per step length squared."""
    return (features0 - features1).square().sum(dim=1) / epsilon**2
