"""Cutting work on a batch of pictures into pieces that a processor's cache holds."""

from __future__ import annotations

from typing import NamedTuple

import torch

CACHE_BYTES = 2 << 20
"""About what may lie between two steps, for each thread; of 1/4 to 8 MiB the quickest with one thread and with two."""


class Piece(NamedTuple):
    """Rows that are computed together: all of some pictures, or some of one."""

    samples: slice
    rows: slice

    @property
    def num_rows(self) -> int:
        """Rows of all its pictures together."""
        return (self.samples.stop - self.samples.start) * (self.rows.stop - self.rows.start)


def cut(num_samples: int, num_rows: int, bytes_of_row: int) -> list[Piece]:
    """Equal pieces of the rows of pictures, so that about CACHE_BYTES of each thread are in work."""
    rows, num = at_once(num_rows, bytes_of_row), at_once(num_samples, num_rows * bytes_of_row)
    return [
        Piece(slice(sample, sample + num), slice(row, row + rows))
        for sample in range(0, num_samples, num)
        for row in range(0, num_rows, rows)
    ]


def at_once(number: int, bytes_of_one: int) -> int:
    """How many of a number of equal things to take at a time: a divisor of the number, at least 1."""
    return largest_divisor(number, max(CACHE_BYTES * torch.get_num_threads() // bytes_of_one, 1))


def largest_divisor(number: int, most: int) -> int:
    """The largest divisor of a number that is not larger than `most`."""
    return next(divisor for divisor in range(min(number, most), 0, -1) if number % divisor == 0)
