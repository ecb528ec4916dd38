"""Blocks of work that fit into the cache."""

import pytest
import torch

from stylegan_ray.ops import cache_blocking
from stylegan_ray.ops.cache_blocking import Block, at_once, split_rows

IMAGES = torch.empty(0)


@pytest.fixture
def threads():
    """Sets the number of threads, until the test ends."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_blocks_cover_all_rows_once(monkeypatch, threads):
    threads(1)
    monkeypatch.setattr(cache_blocking, "CACHE_BYTES", 100)
    rows = [Block(slice(n, n + 1), slice(r, r + 3)) for n in range(2) for r in (0, 3)]
    assert split_rows(IMAGES, 2, 6, 30) == rows, "three rows of 30 bytes fit"
    assert split_rows(IMAGES, 4, 2, 20) == [Block(slice(n, n + 2), slice(0, 2)) for n in (0, 2)], "two whole images fit"
    assert [block.num_rows for block in split_rows(IMAGES, 2, 3, 1000)] == [1] * 6, "at least one row"


def test_the_block_size_grows_with_threads(monkeypatch, threads):
    monkeypatch.setattr(cache_blocking, "CACHE_BYTES", 100)
    for number in (1, 2, 4):
        threads(number)
        assert at_once(64, 10) == {1: 8, 2: 16, 4: 32}[number]
