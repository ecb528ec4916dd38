"""Degradations of images, which the tiny detector learns to see."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Degradation = Callable[[Tensor, Tensor, torch.Generator], Tensor]
"""(images [N,3,H,W] in 0..1, strengths [N] in 0..1, generator) -> images; strength 0 is the identity."""


def blur(images: Tensor, strengths: Tensor, generator: torch.Generator) -> Tensor:
    """Gaussian blur, at strength 1 with a deviation of a sixteenth of the height."""
    num, channels, height, width = images.shape
    radius = max(height // 8, 1)
    offsets = torch.arange(-radius, radius + 1, dtype=images.dtype)
    sigmas = (strengths * height / 16).clamp(min=1e-3)
    taps = torch.exp(-0.5 * (offsets / sigmas[:, None]).square())  # [N,T]
    taps = (taps / taps.sum(dim=1, keepdim=True)).repeat_interleave(channels, dim=0)  # [N*C,T]
    x = F.pad(images, [radius] * 4, mode="replicate").reshape(
        1, num * channels, *(s + 2 * radius for s in (height, width))
    )
    x = F.conv2d(x, taps[:, None, :, None], groups=num * channels)
    return F.conv2d(x, taps[:, None, None, :], groups=num * channels).reshape(images.shape)


def noise(images: Tensor, strengths: Tensor, generator: torch.Generator) -> Tensor:
    """White noise, at strength 1 with a deviation of 0.4."""
    return (images + 0.4 * _wide(strengths) * _randn(images.shape, generator)).clamp(0, 1)


def clouds(images: Tensor, strengths: Tensor, generator: torch.Generator) -> Tensor:
    """Smooth random colors blended with the image, like those of an untrained generator."""
    num, channels, height, width = images.shape
    side = int(torch.randint(2, 9, (), generator=generator))
    field = F.interpolate(_randn((num, channels, side, side), generator), (height, width), mode="bicubic")
    return torch.lerp(images, (0.5 + 0.35 * field).clamp(0, 1), _wide(strengths))


def pixelate(images: Tensor, strengths: Tensor, generator: torch.Generator) -> Tensor:
    """Coarse squares; at strength 1 a sixth of the side remains."""
    height, width = images.shape[2:]
    factor = 2 ** int(torch.randint(1, 4, (), generator=generator))
    small = F.interpolate(images, (max(height // factor, 1), max(width // factor, 1)), mode="area")
    return torch.lerp(images, F.interpolate(small, (height, width), mode="nearest"), _wide(strengths))


def warp(images: Tensor, strengths: Tensor, generator: torch.Generator) -> Tensor:
    """Smooth random displacement, at strength 1 by about an eighth of the side."""
    num, _, height, width = images.shape
    field = F.interpolate(_randn((num, 2, 4, 4), generator), (height, width), mode="bicubic")
    grid = F.affine_grid(torch.eye(2, 3).expand(num, 2, 3), [num, 1, height, width], align_corners=False)
    grid = grid + 0.25 * _wide(strengths) * field.permute(0, 2, 3, 1)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def mix(images: Tensor, strengths: Tensor, generator: torch.Generator) -> Tensor:
    """A blend with another image, half and half at strength 1."""
    return torch.lerp(images, _others(images, generator), 0.5 * _wide(strengths))


def patchwork(images: Tensor, strengths: Tensor, generator: torch.Generator) -> Tensor:
    """Squares replaced by those of another image, every second one at strength 1."""
    num, _, height, width = images.shape
    cells = int(torch.randint(2, 5, (), generator=generator))
    chosen = (torch.rand((num, 1, cells, cells), generator=generator) < 0.5 * _wide(strengths)).float()
    mask = F.interpolate(chosen, (height, width), mode="nearest")
    return torch.lerp(images, _others(images, generator), mask)


def recolor(images: Tensor, strengths: Tensor, generator: torch.Generator) -> Tensor:
    """Colors transformed by a random matrix and shifted."""
    num = len(images)
    matrix = torch.eye(3) + 0.5 * _wide(strengths)[..., 0] * _randn((num, 3, 3), generator)
    shift = 0.2 * strengths[:, None, None, None] * _randn((num, 3, 1, 1), generator)
    return (torch.einsum("nij,njhw->nihw", matrix, images) + shift).clamp(0, 1)


def fade(images: Tensor, strengths: Tensor, generator: torch.Generator) -> Tensor:
    """Contrast reduced towards a random gray."""
    gray = torch.rand((len(images), 1, 1, 1), generator=generator)
    return torch.lerp(images, gray.expand_as(images), 0.8 * _wide(strengths))


def grid(images: Tensor, strengths: Tensor, generator: torch.Generator) -> Tensor:
    """A regular pattern of period 2 to 8 pixels, like artifacts of strided convolutions."""
    num, _, height, width = images.shape
    period = 2 ** int(torch.randint(1, 4, (), generator=generator))
    tile = _randn((num, 3, period, period), generator)
    pattern = tile.repeat(1, 1, -(-height // period), -(-width // period))[:, :, :height, :width]
    return (images + 0.25 * _wide(strengths) * pattern).clamp(0, 1)


def erase(images: Tensor, strengths: Tensor, generator: torch.Generator) -> Tensor:
    """A missing part of the image: a half-plane in the color of the corner."""
    num, _, height, width = images.shape
    angle = 2 * math.pi * torch.rand((num, 1, 1), generator=generator)
    rows, columns = torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)
    depth = angle.sin() * rows + angle.cos() * columns  # [N,H,W]
    gone = (depth > 1 - 0.9 * strengths[:, None, None]) & (strengths[:, None, None] > 0)
    return torch.where(gone[:, None], images[:, :, :1, :1], images)


KINDS: dict[str, Degradation] = {
    kind.__name__: kind for kind in (warp, patchwork, mix, erase, recolor, fade, clouds, pixelate, blur, grid, noise)
}
"""All degradations, in the order of application."""


def degrade(images: Tensor, strengths: Tensor, generator: torch.Generator) -> Tensor:
    """Images [N,3,H,W] in 0..1 with every kind applied at its column of strengths [N,K]."""
    for column, kind in enumerate(KINDS.values()):
        chosen = strengths[:, column].nonzero()[:, 0]
        if len(chosen):
            images = images.index_copy(0, chosen, kind(images[chosen], strengths[chosen, column], generator))
    return images


def random_strengths(num: int, generator: torch.Generator) -> Tensor:
    """Strengths [N,K] with no kind, one kind (twice as often) or two kinds per row."""
    strengths = torch.rand((num, len(KINDS)), generator=generator).square()  # weak degradations are harder to learn
    order = torch.rand((num, len(KINDS)), generator=generator).argsort(dim=1)
    most = torch.tensor([0, 1, 1, 2])[torch.randint(4, (num, 1), generator=generator)]
    return strengths * (order < most)


def _wide(strengths: Tensor) -> Tensor:
    return strengths[:, None, None, None]


def _others(images: Tensor, generator: torch.Generator) -> Tensor:
    """Another image for each: the one before it in a random order."""
    order = torch.randperm(len(images), generator=generator)
    others = torch.empty_like(order)
    others[order] = order.roll(1)
    return images[others]


def _randn(shape: tuple[int, ...] | torch.Size, generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator)
