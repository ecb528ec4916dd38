import pytest
import torch

from stylegan_ray.ops import cache_blocking
from stylegan_ray.ops.cache_blocking import Piece, at_once, cut


@pytest.fixture
def threads():
    """Sets the number of threads, until the test ends."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_pieces_cover_all_rows_once(monkeypatch, threads):
    threads(1)
    monkeypatch.setattr(cache_blocking, "CACHE_BYTES", 100)
    rows = [Piece(slice(n, n + 1), slice(r, r + 3)) for n in range(2) for r in (0, 3)]
    assert cut(2, 6, 30) == rows, "three rows of 30 bytes fit"
    assert cut(4, 2, 20) == [Piece(slice(n, n + 2), slice(0, 2)) for n in (0, 2)], "two whole pictures fit"
    assert [piece.num_rows for piece in cut(2, 3, 1000)] == [1] * 6, "at least one row"


def test_each_thread_has_a_cache_of_its_own(monkeypatch, threads):
    monkeypatch.setattr(cache_blocking, "CACHE_BYTES", 100)
    for number in (1, 2, 4):
        threads(number)
        assert at_once(64, 10) == {1: 8, 2: 16, 4: 32}[number]
