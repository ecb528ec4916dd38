"""PNG files of numpy images."""

import io

import numpy as np
import pytest
from PIL import Image

from stylegan_ray.data.encode import encode_png, to_pil


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
@pytest.mark.parametrize("options", [{}, {"compress_level": 0}])
def test_png_files_hold_the_pixels(channels, mode, options):
    pixels = np.random.default_rng(0).integers(0, 256, (channels, 5, 7), dtype=np.uint8)
    image = Image.open(io.BytesIO(encode_png(pixels, **options)))
    assert (image.format, image.mode) == ("PNG", mode)
    np.testing.assert_array_equal(np.asarray(image).reshape(5, 7, channels).transpose(2, 0, 1), pixels)
    assert encode_png(to_pil(pixels), **options) == encode_png(pixels, **options)
