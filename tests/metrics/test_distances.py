"""FID, KID, MIND and inception score: laws."""

import numpy as np
import pytest
import torch

from stylegan_ray.metrics import FeatureStats, frechet_distance, inception_score, kernel_distance
from stylegan_ray.metrics.distances import monge_distance


def normal(num, size, seed=0, scale=1.0, shift=0.0):
    return np.random.default_rng(seed).standard_normal((num, size)) * scale + shift


def test_frechet_distance_of_a_set_to_itself_is_zero():
    for features in (normal(300, 20), normal(15, 64), np.ones((10, 4)), normal(50, 8).astype(np.float32) * 1e3):
        scale = max(np.trace(FeatureStats.of(features).cov()), 1.0)
        assert 0 <= frechet_distance(features, features) <= 1e-12 * scale


def test_frechet_distance_of_known_normals():
    # Diagonal covariances: |m|^2 + sum (s1 - s2)^2.
    draw = normal(400, 5)
    draw = (draw - draw.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(draw, rowvar=False)).T)
    scales, shift = np.array([1, 2, 0.5, 3, 1.5]), np.array([0, 1, -2, 0.5, 0])
    expected = np.square(shift).sum() + np.square(scales - 1).sum()
    assert frechet_distance(draw, draw * scales + shift) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_is_symmetric_and_takes_tensors_and_statistics():
    a, b = normal(100, 30), normal(40, 30, seed=1, scale=2)  # fewer pictures than features on neither, then one side
    forth = frechet_distance(a, b)
    assert forth == pytest.approx(frechet_distance(b, a), rel=1e-9)
    assert forth == pytest.approx(frechet_distance(torch.from_numpy(a), FeatureStats.of(b)), rel=1e-12)


def test_frechet_distance_ignores_rotations_of_feature_space():
    a, b = normal(30, 50), normal(25, 50, seed=1, shift=0.3)  # rank-deficient covariances
    rotation = np.linalg.qr(normal(50, 50, seed=2))[0]
    assert frechet_distance(a @ rotation, b @ rotation) == pytest.approx(frechet_distance(a, b), rel=1e-9)


def test_frechet_distance_refuses_two_detectors():
    with pytest.raises(ValueError, match="8 columns and fake ones 9"):
        frechet_distance(normal(10, 8), normal(10, 9))


def test_kernel_distance_is_unbiased():
    """Its mean over pairs of sets from one distribution is zero, unlike the Fréchet distance's."""
    values = [kernel_distance(normal(60, 6, seed=2 * i), normal(60, 6, seed=2 * i + 1)) for i in range(20)]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(len(values)) + 1e-3
    assert kernel_distance(normal(60, 6), normal(60, 6, seed=1, shift=1.0)) > 10 * np.std(values)


def test_kernel_distance_draws_from_the_seed():
    a, b = normal(200, 6), normal(200, 6, seed=1)
    settings = {"num_subsets": 5, "subset_size": 50}
    assert kernel_distance(a, b, **settings, seed=1) == kernel_distance(a, b, **settings, seed=1)
    assert kernel_distance(a, b, **settings, seed=1) != kernel_distance(a, b, **settings, seed=2)


def test_kernel_distance_refuses_odd_subsets():
    with pytest.raises(ValueError, match="in pairs"):
        kernel_distance(normal(9, 4), normal(9, 4), subsets=[[0, 1], [1, 2], [3, 4]])


def test_inception_score_lies_between_one_and_the_number_of_classes():
    sure = np.eye(10)[np.arange(200) % 10]
    assert inception_score(sure, 1)[0] == pytest.approx(10, rel=1e-6)
    assert inception_score(np.full((200, 10), 0.1)) == (pytest.approx(1.0), pytest.approx(0.0))
    assert inception_score(np.log(sure + 1e-9) + 7, 1)[0] == pytest.approx(10, rel=1e-6)  # logits
    with pytest.raises(ValueError, match="num_splits=10"):
        inception_score(sure[:5])


@pytest.mark.parametrize("size", [3, 64])
def test_monge_distance_of_normals_is_three_times_the_squared_shift(size):
    shift = np.random.default_rng(1).standard_normal(size)
    found = monge_distance(normal(4000, size), normal(4000, size, seed=1) + shift)
    assert found == pytest.approx(3 * np.square(shift).sum(), rel=0.1)


def test_monge_distance_is_that_of_an_independent_implementation():
    """By transport between quantiles, along directions drawn by somebody else, as far as so many directions agree."""
    a, b = normal(300, 4), normal(300, 4, seed=1, scale=2.0, shift=0.5)
    rng = np.random.default_rng(7)
    total = 0.0
    for _ in range(4000):
        direction = rng.standard_normal(4)
        direction /= np.sqrt((direction**2).sum())
        quantiles = [np.quantile(side @ direction, np.linspace(0, 1, 300)) for side in (a, b)]
        total += ((quantiles[0] - quantiles[1]) ** 2).mean()
    assert monge_distance(a, b, num_directions=4000) == pytest.approx(3 * 4 * total / 4000, rel=0.03)


def test_monge_distance_cuts_the_larger_side_and_ignores_order():
    a, b = normal(60, 8), normal(100, 8, seed=1)
    assert monge_distance(a, a[::-1]) == pytest.approx(0, abs=1e-25)
    assert monge_distance(a, b) == monge_distance(a, b[:60]) == pytest.approx(monge_distance(b, a), rel=1e-12)
    assert monge_distance(a, b) == monge_distance(a, b) != monge_distance(a, b, seed=1)
    with pytest.raises(ValueError, match="8 columns"):
        monge_distance(a, b[:, :7])
