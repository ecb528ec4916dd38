"""Accumulated mean and covariance."""

import numpy as np
import pytest

from stylegan_ray.metrics import FeatureStats


@pytest.fixture
def features():
    draw = np.random.default_rng(0)
    # A mean far above the deviation: raw sums of squares would lose eight digits here.
    return (draw.standard_normal((500, 12)) @ draw.standard_normal((12, 12)) + 1e4).astype(np.float64)


def in_batches(rows, sizes):
    stats = FeatureStats(rows.shape[1])
    for part in np.split(rows, np.cumsum(sizes)):
        stats.update(part)
    return stats


def test_batches_give_the_moments_of_the_whole(features):
    stats = in_batches(features, [1, 64, 64, 100, 7])
    assert stats.num == len(features)
    np.testing.assert_allclose(stats.mean(), features.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(stats.cov(), np.cov(features, rowvar=False), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(stats.cov("ada"), np.cov(features, rowvar=False, ddof=0), rtol=1e-9, atol=1e-9)


def test_merging_is_exact_to_1e_9(features):
    left, right = FeatureStats.of(features[:123]), FeatureStats.of(features[123:])
    left.merge(right)
    whole = FeatureStats.of(features)
    np.testing.assert_allclose(left.cov(), whole.cov(), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(left.mean(), whole.mean(), rtol=1e-12)


def test_the_same_batches_give_the_same_bits(features):
    a, b = in_batches(features, [64] * 7), in_batches(features, [64] * 7)
    assert (a.cov() == b.cov()).all() and (a.mean() == b.mean()).all()


def test_an_empty_batch_changes_nothing(features):
    stats = FeatureStats.of(features)
    before = stats.cov()
    stats.update(features[:0])
    stats.merge(FeatureStats(12))
    assert stats.num == len(features) and (stats.cov() == before).all()


def test_stored_statistics_come_back(features):
    stats = FeatureStats.of(features)
    again = FeatureStats.from_arrays(stats.arrays())
    assert again.num == stats.num and (again.cov() == stats.cov()).all()


def test_wrong_features_are_refused(features):
    with pytest.raises(ValueError, match=r"\[N,F\].*\[500\]"):
        FeatureStats.of(features[:, 0])
    features[3, 3] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        FeatureStats.of(features)
    with pytest.raises(ValueError, match="at least 2"):
        FeatureStats.of(np.ones((1, 3))).cov()
