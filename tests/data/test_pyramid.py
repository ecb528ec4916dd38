"""Smaller versions of images."""

import numpy as np
import pytest

from stylegan_ray.data.pyramid import downscale, pyramid


@pytest.mark.parametrize("level", [0, 1, 2, 3])
@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 24, 16), (2, 3, 32, 8)])
def test_equals_the_chain_of_unrounded_means(level, shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    chain = pixels.astype(np.float32)
    for _ in range(level):
        chain = (chain[..., ::2, ::2] + chain[..., ::2, 1::2] + chain[..., 1::2, ::2] + chain[..., 1::2, 1::2]) * 0.25
    np.testing.assert_array_equal(downscale(pixels, level), np.rint(chain).clip(0, 255).astype(np.uint8))


def test_halves_go_to_even():
    assert downscale(np.uint8([[0, 1], [0, 1]]), 1).item() == 0
    assert downscale(np.uint8([[1, 2], [1, 2]]), 1).item() == 2
    assert downscale(np.full((64, 64), 255, np.uint8), 6).item() == 255


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 24, 16), (2, 3, 32, 8)])
def test_pyramid_is_every_level(shape):
    pixels = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    for images in (pixels, np.full(shape, 255, np.uint8)):
        for level, smaller in enumerate(pyramid(images, 4)):
            np.testing.assert_array_equal(smaller, downscale(images, level))
