"""Improved precision and recall: how much of one set is inside the neighborhoods of the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stylegan_ray.metrics.statistics import Array, Dialect, as_numpy

CHUNK = 1024  # rows of a distance matrix in memory: 1024 x 50000 floats are 200 MB


def precision_recall(
    real: Array, fake: Array, nhood_size: int = 3, dialect: Dialect = "original"
) -> tuple[float, float]:
    """Improved precision and recall with k-nearest-neighbor balls (Kynkäänniemi et al. 2019, eq. 1 and 2).

    Distances are rounded to half precision, and squared in the original only, so rounding decides a few images.
    """
    reals, fakes = Manifold(real, [nhood_size], dialect), Manifold(fake, [nhood_size], dialect)
    precision, recall = reals.probe(fake).inside.mean(axis=0), fakes.probe(real).inside.mean(axis=0)
    return float(precision[0]), float(recall[0])


@dataclass(frozen=True)
class Probe:
    """Positions of N images relative to a manifold."""

    inside: np.ndarray
    """bool [N,K]: inside the ball of any reference, for each neighborhood size."""
    realism: np.ndarray
    """[N]: radius of the nearest reference (first neighborhood size) over the distance to it."""
    nearest: np.ndarray
    """[N]: index of the nearest reference."""


class Manifold:
    """Balls around reference features that reach to the k-th neighbor of each, for several k."""

    def __init__(
        self,
        features: Array,
        nhood_sizes: Sequence[int],
        dialect: Dialect = "original",
        clamp_percentile: float | None = None,
    ) -> None:
        self.dialect: Dialect = dialect
        points = torch.from_numpy(as_numpy(features).astype(np.float32))
        # Squared norms must stay in the range of half precision; scaling by a power of two changes no rounding.
        most = float(points.square().sum(dim=1).max())
        self._scale = 2.0 ** -max(math.ceil(math.log2(max(most, 1e-30) / 4096) / 2), 0)
        self._points = _rounded(points * self._scale)
        largest = max(nhood_sizes)
        if largest >= len(self._points):
            raise ValueError(
                f"nhood_size={largest} needs more than {largest} images, but there are {len(self._points)}"
            )
        # Element 0 of a sorted row is the point itself.
        rows = [
            _distances(part, self._points, dialect).topk(largest + 1, largest=False).values for part in self._parts()
        ]
        self.radii = torch.cat(rows)[:, list(nhood_sizes)]  # [N,K]
        if clamp_percentile is not None:
            limit = np.percentile(self.radii.numpy(), clamp_percentile, axis=0)
            self.radii = torch.where(self.radii > torch.from_numpy(limit), 0.0, self.radii)

    def probe(self, features: Array) -> Probe:
        """The positions of images with these features."""
        points = _rounded(torch.from_numpy(as_numpy(features).astype(np.float32)) * self._scale)
        parts = [self._probe_part(part) for part in points.split(CHUNK)]
        inside, realism, nearest = (torch.cat(column).numpy() for column in zip(*parts, strict=True))
        return Probe(inside, realism, nearest)

    def _parts(self) -> Sequence[Tensor]:
        return self._points.split(CHUNK)

    def _probe_part(self, part: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        distances = _distances(part, self._points, self.dialect)  # [n,N]
        inside = torch.stack([(distances <= radius).any(dim=1) for radius in self.radii.T], dim=1)  # [n,K]
        distance, nearest = distances.min(dim=1)
        return inside, self.radii[nearest, 0] / (distance + 1e-6), nearest


def _rounded(x: Tensor) -> Tensor:
    """x rounded to half precision but stored as float32, so that products are equal on every device."""
    return x.half().float()


def _distances(a: Tensor, b: Tensor, dialect: Dialect) -> Tensor:
    """Distances [len(a), len(b)]; the original's are squared and rounded to half after every step."""
    if dialect == "ada":
        return _rounded(torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist"))
    norm_a, norm_b = (_rounded(_rounded(x.square()).sum(dim=1)) for x in (a, b))
    product = _rounded(a @ b.T)
    squared = _rounded(_rounded(norm_a[:, None] - 2 * product) + norm_b[None])
    return squared.nan_to_num(nan=math.inf).clamp(min=0)  # a probe beyond the range of half is far from everything
