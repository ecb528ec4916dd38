"""How far images are from a target: LPIPS where its weights are stored, else a pyramid of pixels and features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from stylegan_ray.config import ConfigError
from stylegan_ray.metrics.detectors import TINY, Detector, DetectorUnavailable, Weights, read_weights
from stylegan_ray.metrics.tiny_detector import to_input

DistanceName = Literal["auto", "lpips", "pyramid"]
LARGEST_INPUT, SMALLEST_INPUT = 256, 32
"""Sides between which LPIPS compares images: the paper's largest, and what five poolings of VGG16 need."""
SMALLEST_LEVEL = 8
FEATURE_WEIGHT = 1.0
"""Weight of features over pixels in the pyramid. It hardly changes PSNR: 26.5, 26.5 and 26.6 dB with 0, 0.1 and 1."""


class Distance(Protocol):
    """The distance to one target."""

    def __call__(self, images: Tensor) -> Tensor:
        """One value per image [N] for images [N,C,H,W] in 0..255; differentiable."""
        ...


@dataclass(frozen=True)
class DistanceWeights:
    """Which distance is used, with the content of its files, so that tasks on other nodes read none."""

    weights: Weights
    description: str
    """The distance in words, for the user."""

    def build(self) -> Any:
        """A function from a target [1,C,H,W] in 0..255 to a `Distance`."""
        detector = self.weights.build()
        distance = Pyramid if self.weights.name == TINY else Lpips
        return lambda target: distance(detector.to(target.device), target)


def choose_distance(name: DistanceName, detectors: str | None = None) -> DistanceWeights:
    """The distance of a name; auto is LPIPS where its weights are in `detectors`, the folder of metrics.

    Raises ConfigError for lpips without weights.
    """
    pyramid = "pixels and features of the tiny detector, at several sizes"
    if name == "pyramid":
        return DistanceWeights(read_weights(TINY), pyramid)
    try:
        return DistanceWeights(read_weights("lpips", detectors), "LPIPS")
    except DetectorUnavailable as error:
        if name == "lpips":
            way_out = "or choose --distance pyramid, which needs no weights"
            raise ConfigError(f"--distance lpips: {error}; {way_out}") from error
        return DistanceWeights(read_weights(TINY), f"{pyramid}, since LPIPS is not available: {error}")


class Lpips:
    """LPIPS (Zhang et al. 2018), the squared distance of weighted VGG16 features, at no more than 256 pixels a side."""

    def __init__(self, detector: Detector, target: Tensor) -> None:
        self.detector, self.target = detector, target
        self.features = self._features(target)

    def __call__(self, images: Tensor) -> Tensor:
        return (self._features(saturated(images, self.target)) - self.features).square().sum(dim=1)

    def _features(self, images: Tensor) -> Tensor:
        factor = -(-max(images.shape[2:]) // LARGEST_INPUT)
        if factor > 1:
            images = F.interpolate(images, [max(side // factor, 1) for side in images.shape[2:]], mode="area")
        if min(images.shape[2:]) < SMALLEST_INPUT:
            images = F.interpolate(images, scale_factor=-(-SMALLEST_INPUT // min(images.shape[2:])), mode="nearest")
        return self.detector(images.float())[0]


class Pyramid:
    """Mean squared differences of pixels at every size down to 8, and of the tiny detector's activations.

    As in LPIPS, activations have unit length at each position. Each part is a mean: over sizes, over layers.
    """

    def __init__(self, detector: Detector, target: Tensor) -> None:
        self.module: Any = detector.module
        self.target = target
        self.levels, self.maps = pixel_levels(_signed(target)), self._maps(target)

    def __call__(self, images: Tensor) -> Tensor:
        images = saturated(images, self.target)
        pixels = _mean_difference(pixel_levels(_signed(images)), self.levels)
        return pixels + FEATURE_WEIGHT * _mean_difference(self._maps(images), self.maps)

    def _maps(self, images: Tensor) -> list[Tensor]:
        return [x * (x.square().sum(dim=1, keepdim=True) + 1e-8).rsqrt() for x in self.module.maps(to_input(images))]


def saturated(images: Tensor, target: Tensor) -> Tensor:
    """Images in which values beyond black and white are clamped where the target is black or white.

    Files are clamped, so such a pixel does not say how far the network exceeds the range. Elsewhere values beyond the
    range stay, or they would have no gradient.
    """
    images = torch.where(target >= 255, images.clamp(max=255), images)
    return torch.where(target <= 0, images.clamp(min=0), images)


def pixel_levels(images: Tensor) -> list[Tensor]:
    """Images [N,C,H,W] and their means of 2x2 pixels, as long as both sides stay at 8 or more."""
    levels = [images]
    while min(levels[-1].shape[2:]) >= 2 * SMALLEST_LEVEL:
        levels.append(F.avg_pool2d(levels[-1], 2))
    return levels


def _signed(images: Tensor) -> Tensor:
    return images / 127.5 - 1


def _mean_difference(found: list[Tensor], wanted: list[Tensor]) -> Tensor:
    """The mean over the list of mean squared differences, per sample [N]."""
    parts = [(x - y).square().mean(dim=(1, 2, 3)) for x, y in zip(found, wanted, strict=True)]
    return torch.stack(parts).mean(dim=0)
