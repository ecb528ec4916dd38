"""Order of images: every pass shows every image once, passes differ, and the order depends on the position alone."""

import numpy as np
import pytest

from stylegan_ray.data import order
from stylegan_ray.data.order import image_index


@pytest.mark.parametrize("num", [1, 2, 7, 100, 128, 129, 1000, 4113])
@pytest.mark.parametrize("shuffle", ["full", "blocks"])
@pytest.mark.parametrize("rows_and_blocks", [(128, 16), (8, 3), (64, 1)])
def test_every_pass_is_a_permutation(num, shuffle, rows_and_blocks):
    images = image_index(3, 0, np.arange(3 * num), num, shuffle, *rows_and_blocks).reshape(3, num)
    assert (np.sort(images, axis=1) == np.arange(num)).all()
    if num > 30:
        assert not (images[0] == images[1]).all() and not (images[1] == images[2]).all()


@pytest.mark.parametrize("shuffle", ["full", "blocks"])
def test_the_image_depends_on_the_position_alone(shuffle):
    positions = np.random.default_rng(0).integers(0, 10_000, 300)
    together = image_index(5, 1, positions, 777, shuffle)
    assert [int(image_index(5, 1, np.array([p]), 777, shuffle)[0]) for p in positions] == together.tolist()


@pytest.mark.parametrize("shuffle", ["full", "blocks"])
def test_seed_and_salt_change_the_order(shuffle):
    first = image_index(0, 0, np.arange(500), 500, shuffle)
    for seed, salt in [(1, 0), (0, 1)]:
        assert (first != image_index(seed, salt, np.arange(500), 500, shuffle)).mean() > 0.9


def test_tables_only_speed_up(monkeypatch):
    with_table = image_index(2, 0, np.arange(3000), 1000)
    monkeypatch.setattr(order, "TABLE_UP_TO", 0)
    assert (image_index(2, 0, np.arange(3000), 1000) == with_table).all()


def test_blocks_read_few_blocks_at_a_time():
    rows, window = 64, 4
    images = image_index(0, 0, np.arange(9984), 9984, "blocks", rows, window)
    blocks_per_window = [len(np.unique(chunk // rows)) for chunk in np.split(images, 39)]
    assert blocks_per_window == [window] * 39
    assert abs(np.corrcoef(images, np.arange(9984))[0, 1]) < 0.3
    neighbors = np.abs(np.diff(images)) == 1
    assert neighbors.mean() < 0.05  # rows are mixed inside their window


def test_full_shuffle_is_uniform():
    counts = np.zeros((8, 8), dtype=int)
    for data_pass in range(500):
        images = image_index(0, 0, np.arange(8) + 8 * data_pass, 8)
        counts[np.arange(8), images] += 1
    assert (np.abs(counts - 62.5) < 37).all()  # 5 standard deviations
