"""Perceptual path length: laws."""

import numpy as np
import pytest
import torch

from stylegan_ray.metrics import perceptual_path_length
from stylegan_ray.metrics.path_length import PathSettings, as_seen, path_ends, slerp


def test_the_outermost_percentiles_are_left_out():
    distances = np.concatenate([np.full(198, 2.0), [1e9, -1e9]])
    assert perceptual_path_length(distances) == 2.0


def test_features_of_both_ends_give_distances():
    a, b = np.zeros((5, 3)), np.full((5, 3), 0.01)
    assert perceptual_path_length(a, b, epsilon=0.1) == pytest.approx(3 * 1e-4 / 0.01)


def test_other_shapes_of_distances_are_refused():
    with pytest.raises(ValueError, match=r"\[4, 2\]"):
        perceptual_path_length(np.zeros((4, 2)))


def test_slerp_meets_both_ends_at_even_speed():
    a, b = torch.randn(2, 4, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    unit_a, unit_b = (x / x.norm(dim=-1, keepdim=True) for x in (a, b))
    torch.testing.assert_close(slerp(a, b, 0.0), unit_a)
    torch.testing.assert_close(slerp(a, b, 1.0), unit_b)
    angles = [(slerp(a, b, t) * slerp(a, b, t + 0.25)).sum(-1).acos() for t in (0.0, 0.25, 0.5)]
    torch.testing.assert_close(angles[0], angles[2])


@pytest.mark.parametrize("space", ["z", "w"])
def test_end_sampling_starts_at_the_first_latent(space):
    z0, z1 = torch.randn(2, 4, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    t = torch.full((4,), 0.5, dtype=torch.float64)
    start, _ = path_ends(lambda z: z / z.norm(dim=-1, keepdim=True), z0, z1, t, PathSettings(space, "end"))
    torch.testing.assert_close(start, z0 / z0.norm(dim=-1, keepdim=True))


@pytest.mark.parametrize(
    ("size", "crop", "seen"), [(16, True, 8), (16, False, 16), (1024, False, 256), (1024, True, 256)]
)
def test_images_are_cropped_and_shrunk(size, crop, seen):
    images = torch.linspace(-1, 1, size)[None, None, :, None].expand(1, 1, size, size)
    result = as_seen(images, crop)
    assert result.shape == (1, 1, seen, seen)
    assert 0 <= result.min() and result.max() <= 255
    if crop:  # rows 3/8 to 7/8
        assert result.min() == pytest.approx(255 * 3 / 8, abs=10)
        assert result.max() == pytest.approx(255 * 7 / 8, abs=10)
