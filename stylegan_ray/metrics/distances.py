"""Distances between two sets of features: Fréchet (FID), kernel (KID) and Monge (MIND); and the inception score."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import numpy as np

from stylegan_ray import rng
from stylegan_ray.metrics.statistics import Array, Dialect, FeatureStats, as_numpy


def frechet_distance(real: Array | FeatureStats, fake: Array | FeatureStats, dialect: Dialect = "original") -> float:
    """Fréchet distance of the normal distributions fitted to features [N,F] (Heusel et al. 2017, eq. 6).

    The dialects differ in the covariance: divided by N-1 (original) or by N (ada).
    """
    a, b = (side if isinstance(side, FeatureStats) else FeatureStats.of(side) for side in (real, fake))
    if a.mean().shape != b.mean().shape:
        raise ValueError(f"real features have {len(a.mean())} columns and fake ones {len(b.mean())}; use one detector")
    cov_a, cov_b = a.cov(dialect), b.cov(dialect)
    # trace sqrt(A B) is the sum of singular values of sqrt(A) sqrt(B). Unlike eigenvalues of A B these lose no digits
    # in directions of little variance: equal sets give 0 instead of a small number of either sign.
    cross = np.linalg.svd(_root(cov_a) @ _root(cov_b), compute_uv=False).sum()
    distance = np.square(a.mean() - b.mean()).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * cross
    return max(float(distance), 0.0)


def _root(cov: np.ndarray) -> np.ndarray:
    """The symmetric square root of a covariance; eigenvalues below rounding error count as 0."""
    values, vectors = np.linalg.eigh(cov)
    noise = len(values) * np.finfo(np.float64).eps * max(values[-1], 0.0)
    return (vectors * np.sqrt(np.where(values > noise, values, 0.0))) @ vectors.T


def kernel_distance(
    real: Array,
    fake: Array,
    num_subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 0,
    subsets: Sequence[Array] | np.ndarray | None = None,
) -> float:
    """Kernel distance: mean over subsets of the unbiased squared MMD of (x.y/F + 1)^3 (Bińkowski et al. 2018).

    Subsets are drawn from the seed, or given as lists of row indices: fake, real, fake, real, ...
    """
    x, y = as_numpy(fake, "fake features").astype(np.float64), as_numpy(real, "real features").astype(np.float64)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"real features have {y.shape[1]} columns and fake ones {x.shape[1]}; use one detector")
    size = min(len(x), len(y), subset_size)
    if size < 2:
        raise ValueError(f"the kernel distance needs at least 2 images on each side; there are {len(y)} and {len(x)}")
    pairs = _drawn_pairs(len(x), len(y), num_subsets, size, seed) if subsets is None else _given_pairs(subsets)
    return float(np.mean([_squared_mmd(x[i], y[j]) for i, j in pairs]))


def _drawn_pairs(num_x: int, num_y: int, num_subsets: int, size: int, seed: int) -> Iterable[tuple[Array, Array]]:
    for subset in range(num_subsets):
        draw = rng.stream(rng.stream_key(seed, 0, "metric/kid"), subset)
        yield draw.choice(num_x, size, replace=False), draw.choice(num_y, size, replace=False)


def _given_pairs(subsets: Sequence[Array] | np.ndarray) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    if not len(subsets) or len(subsets) % 2:
        raise ValueError(f"subsets must be index lists in pairs (fake, real, fake, real, ...), not {len(subsets)}")
    rows = [np.asarray(subset) for subset in subsets]
    if len({len(row) for row in rows}) > 1:
        raise ValueError("subsets must all have the same number of indices")
    return zip(rows[0::2], rows[1::2], strict=True)


def _squared_mmd(x: np.ndarray, y: np.ndarray) -> float:
    size, num_features = x.shape
    within = (x @ x.T / num_features + 1) ** 3 + (y @ y.T / num_features + 1) ** 3
    across = (x @ y.T / num_features + 1) ** 3
    # The estimate is unbiased without the diagonal, which compares an image with itself.
    return float(((within.sum() - np.trace(within)) / (size - 1) - 2 * across.sum() / size) / size)


def monge_distance(real: Array, fake: Array, num_directions: int = 1000, seed: int = 0) -> float:
    """Monge Inception Distance between features [N,F] (arXiv 2605.06797): 3 F times the squared sliced 2-Wasserstein.

    The mean over `num_directions` random unit directions, drawn from the seed, of the mean squared difference between
    the sorted projections of both sides, of which the larger one is cut to the size of the smaller one.
    """
    x, y = as_numpy(fake, "fake features").astype(np.float64), as_numpy(real, "real features").astype(np.float64)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"real features have {y.shape[1]} columns and fake ones {x.shape[1]}; use one detector")
    size, num_features = min(len(x), len(y)), x.shape[1]
    if size < 1:
        raise ValueError(f"the Monge distance needs images on each side; there are {len(y)} and {len(x)}")
    draw = rng.stream(rng.stream_key(seed, 0, "metric/mind"), 0)
    directions = draw.standard_normal((num_directions, num_features))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    total = 0.0
    for some in np.array_split(directions, -(-num_directions // DIRECTIONS_AT_ONCE)):
        ends = (np.sort(side[:size] @ some.T, axis=0) for side in (x, y))
        total += float(np.square(np.subtract(*ends)).mean(axis=0).sum())
    return 3 * num_features * total / num_directions


DIRECTIONS_AT_ONCE = 100
"""Bounds the memory of projections."""


def inception_score(probs: Array, num_splits: int = 10) -> tuple[float, float]:
    """Mean and standard deviation over splits of exp(mean KL(p(y|x) || p(y))) (Salimans et al. 2016).

    Rows are class probabilities [N,K]; rows that do not sum to 1 are logits.
    """
    rows = as_numpy(probs, "probabilities").astype(np.float64)
    if len(rows) < num_splits:
        raise ValueError(f"num_splits={num_splits} needs at least as many images, but there are {len(rows)}")
    if (rows < 0).any() or np.abs(rows.sum(axis=1) - 1).max() > 1e-3:
        rows = _softmax(rows)
    bounds = [i * len(rows) // num_splits for i in range(num_splits + 1)]
    scores = [_split_score(rows[a:b]) for a, b in itertools.pairwise(bounds)]
    return float(np.mean(scores)), float(np.std(scores))


def _split_score(probs: np.ndarray) -> float:
    tiny = np.finfo(np.float64).tiny
    divergence = probs * (np.log(probs + tiny) - np.log(probs.mean(axis=0, keepdims=True) + tiny))
    return float(np.exp(divergence.sum(axis=1).mean()))


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)
