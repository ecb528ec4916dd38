"""From seeds to images: latents, truncation, style mixing, interpolation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from stylegan_ray.config import ConfigError
from stylegan_ray.networks import mix_styles, truncate
from stylegan_ray.networks.generator import require_finite
from stylegan_ray.networks.synthesis import noise_layers
from stylegan_ray.rng import stream, stream_key

NoiseMode = Literal["const", "random", "none"]
MAPPED_AT_ONCE = 1000


def latents(seeds: Sequence[int], z_dim: int) -> Tensor:
    """z [N, z_dim] of the seeds.

    StyleGAN2 and StyleGAN2-ADA draw latents this way, so a known seed gives the known image. It is the only draw that
    does not use rng.stream.
    """
    rows = [np.random.RandomState(seed).randn(1, z_dim) for seed in seeds]
    return torch.from_numpy(np.concatenate(rows))


def class_labels(seeds: Sequence[int], label_size: int, class_index: int | None) -> Tensor:
    """Labels [N, label_size]: all of one class, or class seed modulo label_size.

    Raises ConfigError for a class that the network does not have.
    """
    if class_index is not None and not 0 <= class_index < label_size:
        has = f"classes 0 to {label_size - 1}" if label_size else "no classes; leave --class out"
        raise ConfigError(f"--class {class_index}: this network has {has}")
    if not label_size:
        return torch.zeros(len(seeds), 0)
    classes = [seed % label_size if class_index is None else class_index for seed in seeds]
    return torch.nn.functional.one_hot(torch.tensor(classes), label_size).float()


def sample_w(G: Any, num: int, class_index: int | None = None, seed: int = 0) -> Tensor:
    """w [num, w_dim] of random latents; of a conditional network for one class, or evenly for all."""
    where, key, parts = next(G.parameters()), stream_key(seed, 0, "sample_w/z"), []
    for begin in range(0, num, MAPPED_AT_ONCE):
        labels = class_labels(range(begin, min(begin + MAPPED_AT_ONCE, num)), G.label_size, class_index)
        z = torch.from_numpy(stream(key, begin).standard_normal((len(labels), G.z_dim), np.float32))
        with torch.no_grad():
            parts.append(G.mapping(z.to(where), labels.to(where)))
    return torch.cat(parts)


def stored_noise(synthesis: Any, lod: float = 0.0) -> list[Tensor]:
    """Copies of the noise maps [1,1,H,W] stored in a network, of the layers in use at `lod`."""
    stored = [layer.noise_const for layer in noise_layers(synthesis.children()) if layer.noise_const is not None]
    return [maps.clone() for maps in stored[: len(synthesis.noise_shapes(1, lod))]]


class Sampler:
    """Computes images of one generator in batches."""

    def __init__(
        self,
        G: Any,
        psi: float = 1.0,
        cutoff: int | None = None,
        noise: NoiseMode = "const",
        batch: int = 16,
        lod: float = 0.0,
    ) -> None:
        self.G, self.psi, self.cutoff, self.noise, self.batch, self.lod = G, psi, cutoff, noise, batch, lod
        self.where = next(G.parameters())
        if G.num_channels not in (1, 3):
            raise ConfigError(
                f"the network makes images of {G.num_channels} channels, and only those of 1 (gray) or 3 (RGB) can be "
                "written as files; load_network in Python gives its tensors"
            )

    def styles(self, seeds: Sequence[int], class_index: int | None = None) -> Tensor:
        """Truncated ws [N, num_ws, w_dim] of the seeds."""
        labels = class_labels(seeds, self.G.label_size, class_index)
        with torch.no_grad():
            w = self.G.mapping(latents(seeds, self.G.z_dim).to(self.where), labels.to(self.where))  # [N,W]
            return self.truncated(mix_styles(w, None, 0, self.G.synthesis.num_ws))

    def truncated(self, ws: Tensor) -> Tensor:
        """ws [N, num_ws, w_dim], truncated."""
        return truncate(ws, self.G.w_avg, self.psi, self.cutoff)

    def images(
        self, ws: Tensor, seeds: Sequence[int] | None = None, maps: Sequence[Tensor] | None = None
    ) -> Iterator[Tensor]:
        """Images [C,H,W] of ws, one after the other; seeds decide the noise where it is random.

        `maps` [N,1,H,W] for each layer take the place of the noise stored in the network.
        """
        for begin in range(0, len(ws), self.batch):
            part = ws[begin : begin + self.batch]
            chosen = None if seeds is None else seeds[begin : begin + self.batch]
            with torch.no_grad():  # ends before the yield, or the caller would compute no gradients either
                noise = self._noise(len(part), chosen)
                if maps is not None and noise == "const":
                    noise = [x[begin : begin + self.batch] for x in maps]
                images = require_finite(self.G.synthesis(part, noise=noise, lod=self.lod))
            yield from images

    def _noise(self, num: int, seeds: Sequence[int] | None) -> str | list[Tensor]:
        """Noise inputs; random ones depend on the seed of their image alone, not on the batch."""
        if self.noise != "random":
            return self.noise
        keys = [stream_key(seed, 0, "generate/noise") for seed in (seeds or [0] * num)]
        inputs = []
        for layer, shape in enumerate(self.G.synthesis.noise_shapes(num, self.lod)):
            rows = [stream(key, layer).standard_normal(shape[1:], np.float32) for key in keys]
            inputs.append(torch.from_numpy(np.stack(rows)).to(self.where))
        return inputs


def mixed_styles(rows: Tensor, columns: Tensor, layers: Sequence[int]) -> Tensor:
    """Styles [R*K,L,W] of a mixing grid, row by row: those of the row, in the given layers those of the column.

    Raises ConfigError for a layer that the network does not have.
    """
    wrong = [layer for layer in layers if layer >= rows.shape[1]]
    if wrong:
        last = rows.shape[1] - 1
        raise ConfigError(
            f"--mix-seeds mixes the layers of --mix-styles, 0-6 unless given, and layer {wrong[0]} is none of this "
            f"network, which has layers 0 to {last}; give --mix-styles 0-{last // 2}"
        )
    mixed = rows.unsqueeze(1).repeat(1, len(columns), 1, 1)  # [R,K,L,W]
    mixed[:, :, list(layers)] = columns[None, :, list(layers)]
    return mixed.flatten(0, 1)


def walk(keys: Tensor, num_frames: int) -> Tensor:
    """Styles on a smooth closed path through the keys [K, ...], with `num_frames` from each key to the next.

    Catmull-Rom splines: the tangent at a key is the direction from the key before it to the key after it.
    """
    before, after, beyond = (torch.roll(keys, shift, 0).unsqueeze(1) for shift in (1, -1, -2))
    here = keys.unsqueeze(1)  # [K,1,...]
    t = torch.arange(num_frames).to(keys) / num_frames
    t = t.reshape(1, -1, *[1] * (keys.ndim - 1))  # [1,F,...]
    return _spline(before, here, after, beyond, t).flatten(0, 1)


def place_on_walk(keys: Tensor, position: float) -> Tensor:
    """Styles [...] on the closed path of `walk` through the keys [K, ...]: 0 is the first key, 1 the second, ...."""
    key = math.floor(position)
    before, here, after, beyond = (keys[(key + step) % len(keys)] for step in (-1, 0, 1, 2))
    return _spline(before, here, after, beyond, position - key)


def _spline(before: Tensor, here: Tensor, after: Tensor, beyond: Tensor, t: Any) -> Tensor:
    """The Catmull-Rom spline between two keys, t from 0 (here) to 1 (after)."""
    return (
        here
        + 0.5 * t * (after - before)
        + t**2 * (before - 2.5 * here + 2 * after - 0.5 * beyond)
        + t**3 * (1.5 * (here - after) + 0.5 * (beyond - before))
    )
