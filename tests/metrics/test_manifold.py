"""Precision and recall: laws."""

import numpy as np
import pytest

from stylegan_ray.metrics import manifold, precision_recall
from stylegan_ray.metrics.manifold import Manifold


def normal(num, seed=0, shift=0.0):
    return np.random.default_rng(seed).standard_normal((num, 6)) + shift


@pytest.mark.parametrize("dialect", ["original", "ada"])
def test_a_set_covers_itself_and_nothing_far_away(dialect):
    features = normal(100)
    assert precision_recall(features, features, dialect=dialect) == (1.0, 1.0)
    assert precision_recall(features, features + 50, dialect=dialect) == (0.0, 0.0)


@pytest.mark.parametrize("dialect", ["original", "ada"])
def test_a_collapsed_set_is_precise_but_recalls_little(dialect):
    real = normal(200)
    fake = np.repeat(normal(200)[:10], 20, axis=0) + 1e-3 * normal(200, seed=1)
    precision, recall = precision_recall(real, fake, dialect=dialect)
    assert precision > 0.95 and recall < 0.2


def test_the_order_of_the_arguments_is_real_then_fake():
    real, fake = normal(200), 0.1 * normal(100, seed=1)  # fakes in the middle of the reals
    precision, recall = precision_recall(real, fake)
    assert precision > 0.95 > recall


def test_large_features_do_not_leave_half_precision():
    real, fake = normal(80), normal(80, seed=1, shift=0.5)
    expected = precision_recall(real, fake)
    assert precision_recall(real * 4096, fake * 4096) == pytest.approx(expected, abs=2.01 / 80)
    assert precision_recall(real, fake * 1e6)[0] == 0.0


def test_chunks_do_not_change_the_answer(monkeypatch):
    real, fake = normal(70), normal(50, seed=1)
    whole = Manifold(real, [3, 5]).probe(fake)
    monkeypatch.setattr(manifold, "CHUNK", 16)
    parts = Manifold(real, [3, 5]).probe(fake)
    assert (whole.inside == parts.inside).all() and (whole.nearest == parts.nearest).all()
    np.testing.assert_array_equal(whole.realism, parts.realism)


def test_too_few_images_are_refused():
    with pytest.raises(ValueError, match=r"nhood_size=3.*3 images"):
        precision_recall(normal(3), normal(10))
