"""Recorded draws, for comparing iterations with the original programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stylegan_ray.rng import Place


class RecordedDraws:
    """Returns recorded numbers: `recorded[purpose]` holds one array per micro-batch of the iteration.

    Purposes: those of losses for latents, `<purpose>/mixed` for second latents, `<purpose>/labels`, `<purpose>/cutoff`
    (absent: no mixing) and `pl_noise`. Noise inputs are the networks' fixed ones.
    """

    def __init__(self, recorded: Mapping[str, Sequence[Any]]) -> None:
        self.recorded = recorded

    def latents(self, purpose: str, place: Place, num: int, z_dim: int) -> Tensor:
        return self._tensor(purpose, place, (num, z_dim))

    def fake_labels(self, purpose: str, place: Place, num: int, label_size: int) -> Tensor:
        return self._tensor(f"{purpose}/labels", place, (num, label_size)) if label_size else torch.zeros(num, 0)

    def uniforms(self, purpose: str, place: Place, num: int) -> Tensor:
        return self._tensor(purpose, place, (num,))

    def mixing(self, purpose: str, place: Place, prob: float, num_layers: int) -> int:
        cutoffs = self.recorded.get(f"{purpose}/cutoff")
        return num_layers if cutoffs is None else int(cutoffs[place.micro_batch])

    def noise(self, purpose: str, place: Place, shapes, device: torch.device, dtype: torch.dtype) -> str:
        return "const"

    def pl_noise(self, place: Place, shape, device: torch.device, dtype: torch.dtype) -> Tensor:
        return self._tensor("pl_noise", place, tuple(shape)).to(device, dtype)

    def _tensor(self, purpose: str, place: Place, shape: tuple[int, ...]) -> Tensor:
        value = torch.from_numpy(np.array(self.recorded[purpose][place.micro_batch]))
        assert tuple(value.shape) == shape, f"recorded {purpose} is {tuple(value.shape)}, the loss draws {shape}"
        return value
