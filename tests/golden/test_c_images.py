"""Conversion to bytes and tiling against the original (group c)."""

import math

import numpy as np
import pytest
import torch

from stylegan_ray.data.process_reals import process_reals
from stylegan_ray.images.grid import image_grid, pil_uint8, shrink2, to_uint8

RANGES = {"": (-1.0, 1.0), "_drange01": (0.0, 1.0), "_drange-1_1": (-1.0, 1.0)}

pytestmark = [pytest.mark.golden, pytest.mark.golden_files("c_schedule", "process_reals*.npz")]


def outputs(golden, prefix):
    """(rest of the name, array) of the outputs whose name begins with the prefix; none is a failure."""
    found = {k.removeprefix("out:" + prefix): v for k, v in golden[1].items() if k.startswith("out:" + prefix)}
    assert found, f"the golden file holds no {prefix}"
    return found


def float_images(golden):
    return torch.from_numpy(golden[1]["in:float_images"])


def test_to_uint8(golden):
    for name, expected in outputs(golden, "to_uint8").items():
        if name != "_nhwc_shrink2":
            np.testing.assert_array_equal(to_uint8(float_images(golden), RANGES[name]).numpy(), expected)


def test_to_uint8_of_half_the_size(golden):
    shrunk = to_uint8(shrink2(float_images(golden))).permute(0, 2, 3, 1)
    np.testing.assert_array_equal(shrunk.numpy(), golden[1]["out:to_uint8_nhwc_shrink2"])


def test_pil_uint8(golden):
    for name, expected in outputs(golden, "pil_uint8").items():
        bytes_hwc = pil_uint8(float_images(golden), RANGES[name]).permute(0, 2, 3, 1)
        np.testing.assert_array_equal(bytes_hwc.numpy(), expected)


def test_image_grid(golden):
    images, expected = float_images(golden), golden[1]["out:image_grid"]
    rows, cols = expected.shape[1] // images.shape[2], expected.shape[2] // images.shape[3]
    np.testing.assert_array_equal(image_grid(images, cols, rows).numpy(), expected)


def test_image_grid_of_its_own_shape(golden):
    """The file does not say how many images it tiled: they repeat, and unused tiles are zero."""
    images, expected = float_images(golden), golden[1]["out:image_grid_auto"]
    _, _, h, w = images.shape
    cols, rows = expected.shape[2] // w, expected.shape[1] // h
    tiles = expected.reshape(-1, rows, h, cols, w).transpose(1, 3, 0, 2, 4).reshape(rows * cols, -1)
    num = int(np.flatnonzero(np.abs(tiles).sum(axis=1))[-1]) + 1
    assert cols == math.ceil(math.sqrt(num))
    repeated = images[torch.arange(num) % len(images)]
    np.testing.assert_array_equal(image_grid(repeated).numpy(), expected)


def test_from_uint8(golden):
    """Conversion from bytes, by the function that training uses."""
    images = torch.from_numpy(golden[1]["in:uint8_images"])
    torch.testing.assert_close(
        process_reals(images, 0.0, None, (-1.0, 1.0)), torch.from_numpy(golden[1]["out:from_uint8"]), rtol=0, atol=1e-6
    )
