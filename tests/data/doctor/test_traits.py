"""What is measured of one image."""

import math

import numpy as np
import pytest
from PIL import Image, ImageFilter
from support.data_sets import encoded, noise_picture

from stylegan_ray.data.decode import in_eight_bits, open_image
from stylegan_ray.data.doctor.traits import STRAIGHT, bars_of, flatness_of, look_of, on_white, sharpness_of


@pytest.mark.parametrize("sigma", [1.0, 2.0])
@pytest.mark.parametrize("turned", [False, True])
def test_sharpness_of_a_blurred_step_is_that_of_the_formula(sigma, turned):
    distance = np.arange(-32, 32) + 0.5
    step = [127.5 + 127.5 * math.erf(x / (sigma * math.sqrt(2))) for x in distance]
    pixels = np.tile(np.round(step).astype(np.uint8), (64, 1))
    # Between the centers of the two pixels at the step, and of those two pixels further on either side.
    expected = math.erf(0.5 / (sigma * math.sqrt(2))) / math.erf(2 / (sigma * math.sqrt(2)))
    assert sharpness_of(Image.fromarray(pixels.T.copy() if turned else pixels)) == pytest.approx(expected, abs=0.02)


def test_sharpness_without_edges_and_of_small_images():
    assert sharpness_of(Image.new("L", (64, 64), 90)) == sharpness_of(Image.new("L", (2, 2))) == 1
    assert sharpness_of(noise_picture(0, (64, 64), "L")) > 0.9
    assert sharpness_of(noise_picture(0, (64, 64), "L").filter(ImageFilter.GaussianBlur(3))) < 0.34
    wide = Image.new("L", (3000, 64), 90)
    wide.paste(noise_picture(0, (64, 64), "L"), (1500, 0))
    assert sharpness_of(wide) > 0.9, "the center is measured"


def test_bars_and_their_inner_edges():
    image = Image.new("RGB", (40, 30), "black")
    image.paste(noise_picture(0, (20, 40)), (0, 4))
    bars = bars_of(image)
    assert bars.thickness == (4, 6, 0, 0) and bars.box(30, 40) == (0, 4, 40, 24)
    assert min(bars.straightness[:2]) > 0.9
    disc = Image.new("RGB", (40, 40), "white")
    disc.paste("red", (10, 10), Image.radial_gradient("L").resize((20, 20)).point(lambda v: 255 * (v < 120)))
    assert min(bars_of(disc).thickness) >= 9 and max(bars_of(disc).straightness) < 0.75
    assert bars_of(Image.new("RGB", (8, 8), "red")).thickness == (0, 0, 0, 0)


@pytest.mark.parametrize("quality", [75, 90, 95])
@pytest.mark.parametrize(("side", "bar"), [(128, 12), (128, 16), (128, 21), (256, 37), (512, 70)])
@pytest.mark.parametrize("color", ["black", "white"])
def test_bars_of_jpeg_end_at_the_image_inside(quality, side, bar, color):
    image = Image.new("RGB", (side, side), color)
    inside = noise_picture(quality, (8, 8)).resize((side, side), Image.Resampling.BICUBIC)
    image.paste(inside.point(lambda value: 60 + value // 2).crop((0, 0, side, side - 2 * bar)), (0, bar))
    for turned, places in ((image, slice(0, 2)), (image.transpose(Image.Transpose.TRANSPOSE), slice(2, 4))):
        bars = bars_of(open_image(encoded(turned, "JPEG", quality=quality)))
        assert bars.thickness[places] == (bar, bar) and min(bars.straightness[places]) > 0.9


def gradient(slope, noise=0):
    """A sky: lines that become brighter downwards."""
    lines = 60 + slope * np.arange(64)[:, None, None] + np.random.default_rng(0).normal(0, noise, (64, 64, 3))
    return Image.fromarray(lines.clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize(("slope", "noise"), [(0.2, 0), (0.5, 0), (1, 0), (3, 0), (8, 0), (0.2, 2), (0.5, 5), (2, 3)])
@pytest.mark.parametrize("turned", [False, True])
def test_gradients_have_no_bars(slope, noise, turned):
    image = gradient(slope, noise)
    for stored in (image, open_image(encoded(image, "JPEG"))):
        bars = bars_of(stored.transpose(Image.Transpose.TRANSPOSE) if turned else stored)
        assert sum(share >= STRAIGHT for share in bars.straightness[2:] if turned) < 2
        assert sum(share >= STRAIGHT for share in bars.straightness[:2] if not turned) < 2


def test_bars_do_not_overlap():
    lines = np.full((64, 64), 104, dtype=np.uint8)
    lines[0], lines[5], lines[60], lines[-1] = 100, 95, 115, 108  # each close to one of the corners' colors
    image = Image.fromarray(lines).convert("RGB")
    left, top, right, bottom = bars_of(image).box(64, 64)
    assert left < right and top < bottom


def test_flatness_is_the_share_of_one_color():
    image = Image.new("RGB", (10, 10), (10, 200, 30))
    assert flatness_of(image) == 1
    image.paste("white", (0, 0, 5, 2))
    assert flatness_of(image) == pytest.approx(0.9)
    assert flatness_of(noise_picture(0, (64, 64))) < 0.1


def test_transparent_parts_are_white():
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert on_white(clear).getcolors() == [(16, (255, 255, 255))]
    half = in_eight_bits(Image.fromarray(np.full((2, 2), 0x800, dtype=np.uint16)), 12, 16)
    assert on_white(half).getcolors() == [(4, (128, 128, 128))]


def test_a_look_does_not_depend_on_size():
    image = noise_picture(3, (8, 8)).resize((32, 32), Image.Resampling.NEAREST)
    small, large = look_of(image), look_of(image.resize((128, 128), Image.Resampling.NEAREST))
    assert all(np.abs(a.astype(np.int64) - b.astype(np.int64)).max() <= 1 for a, b in zip(small, large, strict=True))
