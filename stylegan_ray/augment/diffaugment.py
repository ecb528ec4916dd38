"""DiffAugment: color, translation and cutout of every image (Zhao et al. 2020, section 4 and appendix)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stylegan_ray.augment.augmentation import Augmentation, Numbers, Parameters
from stylegan_ray.config import Policy

MOVED = 0.125
"""Largest translation, in sides of the image."""
CUT = 0.5
"""Side of the square that is cut out, in sides of the image."""


@dataclass(frozen=True)
class DiffAugment(Augmentation):
    """Changes every image in each of the given ways, in their order, whatever p is.

    color: brightness moves by up to 0.5, saturation is multiplied by up to 2 and contrast by 0.5 to 1.5. translation:
    by whole pixels, up to an eighth of each side, with zeros from outside. cutout: a square of half the side, around
    any pixel, is set to 0.
    """

    policy: tuple[Policy, ...]

    uniforms = ("brightness", "saturation", "contrast", "translation.x", "translation.y", "cutout.x", "cutout.y")

    def parameters(self, numbers: Numbers, p: float, shape: tuple[int, int, int], fixed_shapes: bool) -> Parameters:
        u, sides = numbers.uniforms, (("x", shape[2]), ("y", shape[1]))
        found: Parameters = {}
        if "color" in self.policy:
            factors = {"brightness": u["brightness"] - 0.5, "saturation": u["saturation"] * 2}
            found |= factors | {"contrast": u["contrast"] + 0.5}
        if "translation" in self.policy:
            found |= {f"from_{axis}": sources(u[f"translation.{axis}"], length) for axis, length in sides}
        if "cutout" in self.policy:
            found |= {f"cut_{axis}": cut_pixels(u[f"cutout.{axis}"], length) for axis, length in sides}
        return found

    def apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        for name in self.policy:
            images = APPLIED[name](images, parameters)
        return images


def sources(uniform: Tensor, length: int) -> Tensor:
    """Where the pixels of a translated side come from, as matrices [N,length,length] of zeros and ones."""
    most = int(length * MOVED + 0.5)
    shift = (uniform * (2 * most + 1)).floor() - most  # [N], from -most to most
    pixels = torch.arange(length, dtype=torch.float64)
    return (pixels[:, None] - shift[:, None, None] == pixels).double()


def cut_pixels(uniform: Tensor, length: int) -> Tensor:
    """1 for the pixels of a side that are cut out, else 0: [N,length]."""
    side = int(length * CUT + 0.5)
    center = (uniform * (length + 1 - side % 2)).floor()[:, None]
    pixels = torch.arange(length, dtype=torch.float64)
    return ((pixels >= center - side // 2) & (pixels < center - side // 2 + side)).double()


def _color(images: Tensor, parameters: Parameters) -> Tensor:
    brightness, saturation, contrast = (
        parameters[name][:, None, None, None] for name in ("brightness", "saturation", "contrast")
    )
    images = images + brightness
    gray = images.mean(dim=1, keepdim=True)
    images = gray + (images - gray) * saturation
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return mean + (images - mean) * contrast


def _translation(images: Tensor, parameters: Parameters) -> Tensor:
    return parameters["from_y"][:, None] @ images @ parameters["from_x"][:, None].mT


def _cutout(images: Tensor, parameters: Parameters) -> Tensor:
    square = parameters["cut_y"][:, None, :, None] * parameters["cut_x"][:, None, None, :]  # [N,1,H,W]
    return images * (1 - square)


APPLIED = {"color": _color, "translation": _translation, "cutout": _cutout}
