"""Finds the w and the noise maps with which a network makes a given image (StyleGAN2, appendix D)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stylegan_ray.images.generate import sample_w, stored_noise
from stylegan_ray.images.grid import Range
from stylegan_ray.images.perceptual import Distance
from stylegan_ray.rng import stream, stream_key

Space = Literal["w", "w+"]
NoiseInput = Literal["optimize", "const"]
SMALLEST_MAP = 8
"""Side to which the regularizer halves noise maps."""


@dataclass(frozen=True)
class ProjectionPlan:
    """The numbers of the optimization; the defaults are the paper's."""

    num_steps: int = 1000
    space: Space = "w"
    """One w for all layers, or one for each (w+)."""
    peak_lrate: float = 0.1
    rampup: float = 0.05
    """Share of the steps over which the learning rate rises."""
    rampdown: float = 0.25
    """Share of the steps, the last ones, over which the learning rate falls."""
    w_noise: float = 0.05
    """Standard deviation of the noise added to w at the start, over sigma_w."""
    w_noise_share: float = 0.75
    """Share of the steps with noise on w."""
    noise: NoiseInput = "optimize"
    """Whether noise maps are optimized with w, or stay those stored in the network.

    The paper starts from normal values. So are the stored maps, and from them a generated image can be found again.
    """
    noise_weight: float = 1e5
    """Weight of the noise regularizer."""
    seed: int = 0

    def lrate(self, step: int) -> float:
        """The learning rate of a step: a linear ramp up, and the falling half of a cosine at the end."""
        t = step / self.num_steps
        falling = min((1 - t) / self.rampdown, 1.0)
        return self.peak_lrate * min(t / self.rampup, 1.0) * (0.5 - 0.5 * math.cos(math.pi * falling))

    def w_noise_std(self, step: int, sigma_w: float) -> float:
        """Standard deviation of the noise on each component of w: 0.05 * sigma_w * t^2, t from 1 to 0."""
        return self.w_noise * sigma_w * max(1 - step / self.num_steps / self.w_noise_share, 0.0) ** 2


class WStatistics(NamedTuple):
    """The distribution of w."""

    mean: Tensor
    """[w_dim]"""
    sigma: float
    """Square root of the mean squared distance of w to its mean."""


@dataclass(frozen=True)
class Projection:
    """The result for one image."""

    w: Tensor
    """[1,num_ws,w_dim]; all rows are equal in space w."""
    noise: list[Tensor]
    """One map [1,1,H,W] for each layer with noise."""
    image: Tensor
    """What the network makes of them, [C,H,W] in its drange."""
    distance: float
    """Distance of the image to the target."""


Watch = Callable[[int, Tensor, float], None]
"""Called with the step, its image [C,H,W] in drange and its distance."""


def w_statistics(G: Any, class_index: int | None = None, num: int = 10_000) -> WStatistics:
    """Mean and spread of w over `num` latents; of a conditional network over one class, or evenly over all."""
    w = sample_w(G, num, class_index).double()  # [num,W]
    mean = w.mean(dim=0)
    return WStatistics(mean.to(next(G.parameters())), float((w - mean).square().sum(dim=1).mean().sqrt()))


def project(
    G: Any,
    distance: Distance,
    statistics: WStatistics,
    plan: ProjectionPlan,
    drange: Range = (-1, 1),
    lod: float = 0.0,
    start: Tensor | None = None,
    watch: Watch | None = None,
) -> Projection:
    """Minimizes the distance of the network's image over w and noise, from the mean w or from `start` [1,num_ws,w_dim].

    The same plan gives the same result on one kind of device.
    """
    where, num_ws = next(G.parameters()), G.synthesis.num_ws
    free = num_ws if plan.space == "w+" else 1
    begin = statistics.mean[None, None].expand(1, free, -1) if start is None else _start(start, free).to(where)
    w = begin.clone().requires_grad_(True)  # [1,1 or L,W]
    noise = stored_noise(G.synthesis, lod)
    free_noise = [x.requires_grad_(True) for x in noise] if plan.noise == "optimize" else []
    optimizer = torch.optim.Adam([w, *free_noise], lr=0.0)
    w_key = stream_key(plan.seed, 0, "project/w")
    G.requires_grad_(False)

    def image_of(ws: Tensor) -> Tensor:
        return G.synthesis(ws.expand(-1, num_ws, -1), noise=noise, lod=lod)

    for step in range(plan.num_steps):
        for group in optimizer.param_groups:
            group["lr"] = plan.lrate(step)
        jitter = torch.from_numpy(stream(w_key, step).standard_normal(w.shape, np.float32)).to(where)
        image = image_of(w + jitter * plan.w_noise_std(step, statistics.sigma))
        found = distance(to_255(image, drange)).sum()
        loss = found + plan.noise_weight * noise_regularization(free_noise).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for x in free_noise:
                x.copy_(normalized(x))
            if watch is not None:
                watch(step, image[0].detach(), float(found))
    with torch.no_grad():
        image = image_of(w)
        found = float(distance(to_255(image, drange)).sum())
        ws = w.expand(-1, num_ws, -1).clone()
    return Projection(ws, [x.detach() for x in noise], image[0], found)


def noise_regularization(maps: Sequence[Tensor]) -> Tensor:
    """Squared correlations of each map [N,1,H,W] with itself shifted by a pixel, at all its sizes; per sample [N].

    Keeps the optimization from storing the image in the noise. Halving a map doubles the mean of 2x2 values, which
    keeps the variance of white noise (appendix D).
    """
    total = torch.zeros(())
    for x in maps:
        for level in noise_levels(x):
            for axis in (2, 3):
                total = total + (level * level.roll(1, axis)).mean(dim=(1, 2, 3)).square()
    return total


def noise_levels(x: Tensor) -> list[Tensor]:
    """A noise map [N,1,H,W] and its halves down to 8x8."""
    levels = [x]
    while min(levels[-1].shape[2:]) > SMALLEST_MAP:
        levels.append(F.avg_pool2d(levels[-1], 2) * 2)
    return levels


def normalized(x: Tensor) -> Tensor:
    """A noise map with zero mean and unit variance."""
    x = x - x.mean(dim=(1, 2, 3), keepdim=True)
    return x * (x.square().mean(dim=(1, 2, 3), keepdim=True) + 1e-12).rsqrt()


def to_255(images: Tensor, drange: Range) -> Tensor:
    """Images in drange as float values in 0..255, neither rounded nor clamped."""
    return (images - drange[0]) * (255 / (drange[1] - drange[0]))


def psnr(found: Tensor, wanted: Tensor) -> float:
    """Peak signal-to-noise ratio of two uint8 images in dB."""
    error = (found.double() - wanted.double()).square().mean().item()
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def _start(start: Tensor, free: int) -> Tensor:
    return start if free > 1 else start.mean(dim=1, keepdim=True)
