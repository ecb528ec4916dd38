"""Linear separability: laws."""

import numpy as np
import pytest

from stylegan_ray.metrics import linear_separability
from stylegan_ray.metrics.separability import conditional_entropy, entropy, mutual_information, separating_plane


@pytest.fixture
def latents():
    return np.random.default_rng(0).standard_normal((2000, 8))


def test_entropies_add_up():
    joint = np.array([[10, 3], [5, 20]])
    rows, columns = joint.sum(axis=1), joint.sum(axis=0)
    assert conditional_entropy(joint) == pytest.approx(entropy(columns) - mutual_information(joint))
    assert mutual_information(np.outer(rows, columns)) == pytest.approx(0, abs=1e-12)
    assert entropy(np.ones(8)) == pytest.approx(3)


def test_the_plane_finds_the_direction(latents):
    normal = np.arange(8) - 3.0
    plane = separating_plane(latents, latents @ normal + 1.5 > 0)
    cosine = plane.normal @ normal / np.linalg.norm(plane.normal) / np.linalg.norm(normal)
    assert cosine > 0.999
    assert plane.offset / np.linalg.norm(plane.normal) == pytest.approx(1.5 / np.linalg.norm(normal), rel=0.05)


def test_the_plane_minimizes_its_objective(latents):
    classes = latents[:, 0] + np.random.default_rng(1).standard_normal(2000) > 0  # not separable
    plane, signs = separating_plane(latents, classes), np.where(classes, 1, -1)

    def objective(normal, offset):
        return (normal @ normal + offset**2) / 2 + np.square(
            np.maximum(1 - signs * (latents @ normal + offset), 0)
        ).sum()

    best = objective(plane.normal, plane.offset)
    for direction in np.eye(9):
        for size in (-1e-3, 1e-3):
            assert objective(plane.normal + size * direction[:8], plane.offset + size * direction[8]) > best


def test_a_linear_attribute_is_separable_and_a_round_one_is_not(latents):
    linear, curved = latents[:, :1], np.square(latents).sum(axis=1, keepdims=True) - 7.5
    assert linear_separability(latents, linear) == pytest.approx(1.0, abs=0.02)
    assert linear_separability(latents, curved) > 1.8
    both = linear_separability(latents, np.concatenate([linear, curved], axis=1))
    assert both == pytest.approx(linear_separability(latents, linear) * linear_separability(latents, curved))
    assert linear_separability(latents, np.ones((2000, 1))) == 1.0  # an attribute that all have
