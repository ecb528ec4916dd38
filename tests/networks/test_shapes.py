"""Sizes and widths of the levels."""

from itertools import pairwise

import pytest

from stylegan_ray.networks.shapes import feature_maps, level_name, level_sizes


def test_squares_of_a_power_of_two_start_at_four():
    assert level_sizes(32) == [(4, 4), (8, 8), (16, 16), (32, 32)]
    assert level_sizes(1024)[0] == (4, 4) and len(level_sizes(1024)) == 9


@pytest.mark.parametrize(
    ("resolution", "start", "levels"),
    [((512, 384), (4, 3), 8), ((384, 512), (3, 4), 8), ((1024, 512), (4, 2), 9), ((768, 768), (6, 6), 8),
     ((640, 480), (20, 15), 6), ((8, 8), (4, 4), 2), ((20, 12), (5, 3), 3)],
)  # fmt: skip
def test_other_sizes_halve_down_to_a_small_start(resolution, start, levels):
    sizes = level_sizes(resolution)
    assert sizes[0] == start and len(sizes) == levels and sizes[-1] == resolution
    assert all(big == (2 * small[0], 2 * small[1]) for small, big in pairwise(sizes))


@pytest.mark.parametrize("resolution", [4, 100, (64, 33), (1000, 1000), (1280, 720), (0, 8), 7])
def test_other_sizes_are_refused_with_one_that_works(resolution):
    with pytest.raises(ValueError, match="same power of two") as error:
        level_sizes(resolution)
    nearby = str(error.value).rpartition("try ")[2].split(" x ")
    assert level_sizes([int(side) for side in nearby])


def test_blocks_are_named_by_the_larger_side():
    assert [level_name(size) for size in level_sizes((32, 24))] == ["b4", "b8", "b16", "b32"]


def test_feature_maps_of_configurations_e_and_f():
    assert feature_maps(10, 16384, 1.0, 1, 512) == [512, 512, 512, 512, 512, 512, 256, 128, 64, 32]
    assert feature_maps(10, 8192, 1.0, 1, 512) == [512, 512, 512, 512, 512, 256, 128, 64, 32, 16]
    assert feature_maps(4, 96, 0.5, 40, 60) == [60, 60, 48, 40]
