"""Every random number of a run, as a function of (seed, purpose, position) or (seed, purpose, nimg, micro-batch).

torch is imported only where tensors are drawn: processes that decode images import this module without torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@lru_cache(maxsize=4096)
def stream_key(seed: int, stream_salt: int, purpose: str, *rest: int) -> tuple[int, int]:
    """The 128-bit key of a stream, as two 64-bit words."""
    words = np.random.SeedSequence([seed, stream_salt, len(purpose), *purpose.encode(), *rest])
    return tuple(words.generate_state(2, np.uint64).tolist())  # type: ignore[return-value]


def stream(key: tuple[int, int], position: int, micro_batch: int = 0) -> np.random.Generator:
    """The generator at a position of a stream, in O(1); positions never overlap."""
    # Philox counts in its lowest word, so a position in the second one leaves 2^64 blocks to each.
    return np.random.Generator(np.random.Philox(key=key, counter=[0, position, micro_batch, 0]))


def coins(key: tuple[int, int], positions: np.ndarray) -> np.ndarray:
    """A fair coin (bool) for each position, in O(1) each, without a generator per position."""
    mixed = _scramble(np.asarray(positions, dtype=np.uint64) ^ np.uint64(key[0]))
    return _scramble(mixed ^ np.uint64(key[1])) >> np.uint64(63) == 1


def permuted(places: np.ndarray, num: int, key: tuple[int, int]) -> np.ndarray:
    """The value of a permutation of range(num), chosen by the key, at each place; O(1) each, without a table.

    A Feistel network over the next even power of two, applied until the value is in range (Black and Rogaway 2002).
    """
    half_bits = max((int(num - 1).bit_length() + 1) // 2, 1)
    mask = np.uint64((1 << half_bits) - 1)
    round_keys = np.random.SeedSequence(list(key)).generate_state(6, np.uint64)
    values = np.asarray(places, dtype=np.uint64).copy()
    outside = np.ones(values.shape, dtype=bool)
    while outside.any():
        left, right = values[outside] >> np.uint64(half_bits), values[outside] & mask
        for round_key in round_keys:
            left, right = right, left ^ (_scramble(right ^ round_key) & mask)
        values[outside] = (left << np.uint64(half_bits)) | right
        outside = values >= num
    return values.astype(np.int64)


def _scramble(x: np.ndarray) -> np.ndarray:
    """A 64-bit mixing function (the finalizer of splitmix64, public domain constants)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


Shape = tuple[int, ...]


@dataclass(frozen=True)
class Place:
    """Where a micro-batch is in the stream of a run."""

    nimg: int
    """cur_nimg when its minibatch began."""
    micro_batch: int
    """Its index in the minibatch, over all ranks."""
    position: int
    """Sample position of its first image."""


class Draws(Protocol):
    """All random numbers of an iteration. `purpose` names the loss: G_main, G_reg, D_main, D_reg."""

    def latents(self, purpose: str, place: Place, num: int, z_dim: int) -> Tensor:
        """Normal latents [num, z_dim], one stream per position, on the CPU."""
        ...

    def fake_labels(self, purpose: str, place: Place, num: int, label_size: int) -> Tensor:
        """Labels of random training images [num, label_size], one stream per position, on the CPU."""
        ...

    def uniforms(self, purpose: str, place: Place, num: int) -> Tensor:
        """Uniform numbers in [0, 1) [num], one stream per position, on the CPU."""
        ...

    def mixing(self, purpose: str, place: Place, prob: float, num_layers: int) -> int:
        """The cutoff of style mixing: in 1 to num_layers - 1 with probability prob, else num_layers (no mixing)."""
        ...

    def noise(
        self, purpose: str, place: Place, shapes: Sequence[Shape], device: torch.device, dtype: torch.dtype
    ) -> list[Tensor] | str:
        """Noise inputs of the synthesis, one [N,1,H,W] tensor per shape, or "const" for the fixed ones."""
        ...

    def pl_noise(self, place: Place, shape: Shape, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Standard normal noise of the path length penalty, shaped like images."""
        ...

    def augmentation(
        self, purpose: str, place: Place, num: int, num_uniforms: int, num_normals: int
    ) -> tuple[Tensor, Tensor]:
        """Uniform [num, num_uniforms] and standard normal numbers [num, num_normals], one stream per position, float64
        on the CPU."""
        ...

    def augment_noise(
        self, purpose: str, place: Place, shape: Shape, device: torch.device, dtype: torch.dtype
    ) -> Tensor:
        """Standard normal noise that is added to images of this shape."""
        ...


class LabelSource(Protocol):
    """A data set that labels of fakes are drawn from."""

    @property
    def num_images(self) -> int: ...

    def labels(self, indices: np.ndarray) -> np.ndarray: ...


class SeededDraws:
    """The draws of a run, by seeded streams."""

    def __init__(self, seed: int, stream_salt: int = 0, label_source: LabelSource | None = None) -> None:
        self.seed, self.stream_salt, self.label_source = seed, stream_salt, label_source

    def latents(self, purpose: str, place: Place, num: int, z_dim: int) -> Tensor:
        import torch

        key = self._key(f"{purpose}/z")
        rows = [stream(key, place.position + i).standard_normal(z_dim, dtype=np.float32) for i in range(num)]
        return torch.from_numpy(np.stack(rows))

    def fake_labels(self, purpose: str, place: Place, num: int, label_size: int) -> Tensor:
        import torch

        if not label_size:
            return torch.zeros(num, 0)
        assert self.label_source is not None, "a conditional run draws its labels from the data set"
        key, most = self._key(f"{purpose}/label"), self.label_source.num_images
        indices = [stream(key, place.position + i).integers(most) for i in range(num)]
        return torch.from_numpy(self.label_source.labels(np.array(indices)))

    def uniforms(self, purpose: str, place: Place, num: int) -> Tensor:
        import torch

        key = self._key(purpose)
        return torch.tensor([stream(key, place.position + i).random() for i in range(num)], dtype=torch.float64)

    def mixing(self, purpose: str, place: Place, prob: float, num_layers: int) -> int:
        generator = stream(self._key(f"{purpose}/mixing"), place.nimg, place.micro_batch)
        mixed, cutoff = generator.random() < prob, int(generator.integers(1, max(num_layers, 2)))
        return cutoff if mixed else num_layers

    def noise(
        self, purpose: str, place: Place, shapes: Sequence[Shape], device: torch.device, dtype: torch.dtype
    ) -> list[Tensor] | str:
        import torch

        generator = self._device_generator(f"{purpose}/noise", place, device)
        return [torch.randn(shape, generator=generator, device=device, dtype=dtype) for shape in shapes]

    def pl_noise(self, place: Place, shape: Shape, device: torch.device, dtype: torch.dtype) -> Tensor:
        import torch

        generator = self._device_generator("pl_noise", place, device)
        return torch.randn(shape, generator=generator, device=device, dtype=dtype)

    def augmentation(
        self, purpose: str, place: Place, num: int, num_uniforms: int, num_normals: int
    ) -> tuple[Tensor, Tensor]:
        import torch

        key = self._key(purpose)
        generators = [stream(key, place.position + i) for i in range(num)]
        uniforms = np.stack([generator.random(num_uniforms) for generator in generators])
        normals = np.stack([generator.standard_normal(num_normals) for generator in generators])
        return torch.from_numpy(uniforms), torch.from_numpy(normals)

    def augment_noise(
        self, purpose: str, place: Place, shape: Shape, device: torch.device, dtype: torch.dtype
    ) -> Tensor:
        import torch

        generator = self._device_generator(f"{purpose}/noise", place, device)
        return torch.randn(shape, generator=generator, device=device, dtype=dtype)

    def _key(self, purpose: str) -> tuple[int, int]:
        return stream_key(self.seed, self.stream_salt, purpose)

    def _device_generator(self, purpose: str, place: Place, device: torch.device) -> torch.Generator:
        import torch

        state = stream(self._key(purpose), place.nimg, place.micro_batch).integers(2**63)
        return torch.Generator(device=device).manual_seed(int(state))
