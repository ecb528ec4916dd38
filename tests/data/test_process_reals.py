"""The step from stored images to those that D sees."""

import torch

from stylegan_ray.data.process_reals import process_reals

IMAGES = torch.randint(0, 256, (4, 3, 8, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_range_ends_are_exact():
    ends = torch.tensor([0, 255], dtype=torch.uint8).reshape(1, 1, 1, 2)
    for drange in [(-1.0, 1.0), (0.0, 1.0), (-2.0, 3.0)]:
        torch.testing.assert_close(process_reals(ends, 0.0, None, drange).flatten(), torch.tensor(drange))


def test_mirror_flips_the_rows_it_names():
    mirror = torch.tensor([True, False, False, True])
    plain, flipped = process_reals(IMAGES), process_reals(IMAGES, 0.0, mirror)
    torch.testing.assert_close(flipped[mirror], plain[mirror].flip(3), rtol=0, atol=0)
    torch.testing.assert_close(flipped[~mirror], plain[~mirror], rtol=0, atol=0)


def test_whole_levels_are_only_enlarged():
    full = process_reals(IMAGES, 2.0)
    assert full.shape == (4, 3, 32, 48)
    torch.testing.assert_close(full[:, :, ::4, ::4], process_reals(IMAGES), rtol=0, atol=0)
    torch.testing.assert_close(full[:, :, 3::4, 3::4], process_reals(IMAGES), rtol=0, atol=0)


def test_blend_reaches_the_next_level():
    """Just before the next level of detail an image is close to its own means, so growing has no jump."""
    nearly = process_reals(IMAGES, 0.999999, dtype=torch.float64)
    means = torch.nn.functional.avg_pool2d(process_reals(IMAGES, dtype=torch.float64), 2)
    torch.testing.assert_close(nearly, means.repeat_interleave(2, 2).repeat_interleave(2, 3), rtol=0, atol=1e-5)
