"""What every augmentation is, and the random numbers that it draws for each image."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from stylegan_ray.rng import Draws, Place

Parameters = dict[str, Any]
"""What images are changed by: tensors that begin with [N], and sizes."""


@dataclass(frozen=True)
class Numbers:
    """Random numbers of N images by name, float64 [N] on the CPU."""

    uniforms: dict[str, Tensor]
    """In [0, 1)."""
    normals: dict[str, Tensor]
    """Standard normal."""

    def gated(self, name: str, probability: float, value: Tensor, neutral: float = 0.0) -> Tensor:
        """`value` [N] with a probability, else the value that changes nothing; the number `name?` decides."""
        return torch.where(self.uniforms[f"{name}?"] < probability, value, neutral)


class Augmentation(ABC):
    """Base of all augmentations. Its values are constants of compiled code."""

    uniforms: ClassVar[tuple[str, ...]] = ()
    """Names of the uniform numbers that it draws for an image, in their order."""
    normals: ClassVar[tuple[str, ...]] = ()
    """Names of the standard normal numbers that it draws for an image, in their order."""

    @property
    def needs_noise(self) -> bool:
        """Whether it takes the parameter `noise`, standard normal and shaped like the images."""
        return False

    @abstractmethod
    def parameters(self, numbers: Numbers, p: float, shape: tuple[int, int, int], fixed_shapes: bool) -> Parameters:
        """The parameters of N images of a shape (C, H, W), each augmentation applied with probability p.

        With `fixed_shapes` no size in them depends on the numbers, so that compiled code serves all of them.
        """

    @abstractmethod
    def apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        """Augmented images [N,C,H,W], which are in the range [-1, 1] before."""

    def check_size(self, size: tuple[int, int]) -> None:  # noqa: B027 for most augmentations any size will do
        """Raises ValueError for images (H, W) that it cannot augment."""

    def draw(self, draws: Draws, purpose: str, place: Place, num: int) -> Numbers:
        """Random numbers of `num` consecutive images."""
        sizes = len(self.uniforms), len(self.normals)
        return self.numbers(*draws.augmentation(purpose, place, num, *sizes))

    def numbers(self, uniforms: Tensor, normals: Tensor) -> Numbers:
        """Random numbers from a column of each [N,K] per name."""
        return Numbers(
            dict(zip(self.uniforms, uniforms.unbind(1), strict=True)),
            dict(zip(self.normals, normals.unbind(1), strict=True)),
        )


def joined(several: Sequence[Numbers]) -> Numbers:
    """The numbers of several batches of images, one after the other."""
    first = several[0]
    return Numbers(
        {name: torch.cat([numbers.uniforms[name] for numbers in several]) for name in first.uniforms},
        {name: torch.cat([numbers.normals[name] for numbers in several]) for name in first.normals},
    )
