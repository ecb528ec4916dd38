"""Every random number of a run, as a function of (seed, purpose, position) or (seed, purpose, nimg, micro-batch)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from stylegan_ray.streams import coins, permuted, stream, stream_key

__all__ = ["Draws", "LabelSource", "Place", "SeededDraws", "coins", "permuted", "stream", "stream_key"]

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Place:
    """Where a micro-batch stands in the run."""

    nimg: int
    """cur_nimg when its minibatch began."""
    micro_batch: int
    """Its index in the minibatch, over all ranks."""
    position: int
    """Sample position of its first picture."""


class Draws(Protocol):
    """The one door of randomness into an iteration. `purpose` names the phase: G_main, G_reg, D_main, D_reg."""

    def latents(self, purpose: str, place: Place, num: int, z_dim: int) -> Tensor:
        """Normal latents [num, z_dim], one stream per position, on the CPU."""
        ...

    def fake_labels(self, purpose: str, place: Place, num: int, label_size: int) -> Tensor:
        """Labels of random training pictures [num, label_size], one stream per position, on the CPU."""
        ...

    def uniforms(self, purpose: str, place: Place, num: int) -> Tensor:
        """Uniform numbers in [0, 1) [num], one stream per position, on the CPU."""
        ...

    def mixing(self, purpose: str, place: Place, prob: float, num_layers: int) -> int:
        """Layers below the returned one keep the first w: 1 <= cutoff < num_layers with probability prob, else all."""
        ...

    def noise(
        self, purpose: str, place: Place, shapes: Sequence[Shape], device: torch.device, dtype: torch.dtype
    ) -> list[Tensor] | str:
        """Noise inputs of the synthesis, one [N,1,H,W] tensor per shape, or "const" for the fixed ones."""
        ...

    def pl_noise(self, place: Place, shape: Shape, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Standard normal picture-shaped noise of the path length penalty."""
        ...


class LabelSource(Protocol):
    """Where labels of generated pictures come from: a data set."""

    @property
    def num_images(self) -> int: ...

    def labels(self, indices: np.ndarray) -> np.ndarray: ...


class SeededDraws:
    """The draws of a production run."""

    def __init__(self, seed: int, stream_salt: int = 0, label_source: LabelSource | None = None) -> None:
        self.seed, self.stream_salt, self.label_source = seed, stream_salt, label_source

    def latents(self, purpose: str, place: Place, num: int, z_dim: int) -> Tensor:
        key = self._key(f"{purpose}/z")
        rows = [stream(key, place.position + i).standard_normal(z_dim, dtype=np.float32) for i in range(num)]
        return torch.from_numpy(np.stack(rows))

    def fake_labels(self, purpose: str, place: Place, num: int, label_size: int) -> Tensor:
        if not label_size:
            return torch.zeros(num, 0)
        assert self.label_source is not None, "a conditional run draws its labels from the data set"
        key, most = self._key(f"{purpose}/label"), self.label_source.num_images
        indices = [stream(key, place.position + i).integers(most) for i in range(num)]
        return torch.from_numpy(self.label_source.labels(np.array(indices)))

    def uniforms(self, purpose: str, place: Place, num: int) -> Tensor:
        key = self._key(purpose)
        return torch.tensor([stream(key, place.position + i).random() for i in range(num)], dtype=torch.float64)

    def mixing(self, purpose: str, place: Place, prob: float, num_layers: int) -> int:
        generator = stream(self._key(f"{purpose}/mixing"), place.nimg, place.micro_batch)
        mixed, cutoff = generator.random() < prob, int(generator.integers(1, max(num_layers, 2)))
        return cutoff if mixed else num_layers

    def noise(
        self, purpose: str, place: Place, shapes: Sequence[Shape], device: torch.device, dtype: torch.dtype
    ) -> list[Tensor] | str:
        generator = self._device_generator(f"{purpose}/noise", place, device)
        return [torch.randn(shape, generator=generator, device=device, dtype=dtype) for shape in shapes]

    def pl_noise(self, place: Place, shape: Shape, device: torch.device, dtype: torch.dtype) -> Tensor:
        generator = self._device_generator("pl_noise", place, device)
        return torch.randn(shape, generator=generator, device=device, dtype=dtype)

    def _key(self, purpose: str) -> tuple[int, int]:
        return stream_key(self.seed, self.stream_salt, purpose)

    def _device_generator(self, purpose: str, place: Place, device: torch.device) -> torch.Generator:
        state = stream(self._key(purpose), place.nimg, place.micro_batch).integers(2**63)
        return torch.Generator(device=device).manual_seed(int(state))
