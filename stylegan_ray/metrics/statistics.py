"""Mean and covariance of features in float64, accumulated batch by batch."""

from __future__ import annotations

from typing import Literal

import numpy as np
from torch import Tensor

Dialect = Literal["original", "ada"]
"""The TensorFlow original's arithmetic, or that of StyleGAN2-ADA."""

Array = np.ndarray | Tensor


def as_numpy(array: Array, name: str = "features") -> np.ndarray:
    """The array as numpy [N,F]; raises ValueError on another number of dimensions or on values that are not finite."""
    values = array.detach().cpu().numpy() if isinstance(array, Tensor) else np.asarray(array)
    if values.ndim != 2:
        raise ValueError(f"{name} must be an array [N,F], one row per image, but its shape is {list(values.shape)}")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} hold values that are not finite; check the images and the detector")
    return values


class FeatureStats:
    """Number, mean [F] and scatter [F,F] of features; equal batches in equal order give equal bits."""

    def __init__(self, num_features: int) -> None:
        self.num = 0
        self._mean = np.zeros(num_features)
        self._scatter = np.zeros((num_features, num_features))  # sum of (x - mean)(x - mean)^T

    @classmethod
    def of(cls, features: Array) -> FeatureStats:
        """The statistics of all rows at once."""
        values = as_numpy(features)
        stats = cls(values.shape[1])
        stats.update(values)
        return stats

    def update(self, features: Array) -> None:
        """Adds the rows of [N,F]."""
        rows = as_numpy(features).astype(np.float64)
        if len(rows):
            mean = rows.mean(axis=0)
            centered = rows - mean
            self._add(len(rows), mean, centered.T @ centered)

    def merge(self, other: FeatureStats) -> None:
        """Adds the rows of other statistics."""
        if other.num:
            self._add(other.num, other._mean, other._scatter)

    def mean(self) -> np.ndarray:
        """Mean [F]."""
        return self._mean.copy()

    def cov(self, dialect: Dialect = "original") -> np.ndarray:
        """Covariance [F,F]: divided by N-1 as in the original, or by N as in StyleGAN2-ADA."""
        degrees = self.num - 1 if dialect == "original" else self.num
        if degrees < 1:
            raise ValueError(f"a covariance needs at least 2 images, but there are {self.num}")
        return self._scatter / degrees

    def arrays(self) -> dict[str, np.ndarray]:
        """The statistics as arrays, for storage."""
        return {"num": np.array(self.num), "mean": self._mean, "scatter": self._scatter}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> FeatureStats:
        """Statistics from the result of `arrays`."""
        stats = cls(len(arrays["mean"]))
        stats.num, stats._mean, stats._scatter = int(arrays["num"]), arrays["mean"], arrays["scatter"]
        return stats

    def _add(self, num: int, mean: np.ndarray, scatter: np.ndarray) -> None:
        # Centered sums keep all digits where raw sums of squares would cancel (Chan, Golub and LeVeque 1983).
        total = self.num + num
        step = mean - self._mean
        self._scatter = self._scatter + scatter + np.outer(step, step) * (self.num * num / total)
        self._mean = self._mean + step * (num / total)
        self.num = total
