"""Splitting work on a batch of images into blocks that fit into the processor's cache."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

CACHE_BYTES = 2 << 20
"""Size of intermediate results per thread; the fastest of 1/4 to 8 MiB with one thread and with two."""


class Block(NamedTuple):
    """Rows that are computed together: all rows of some images, or some rows of one."""

    samples: slice
    rows: slice

    @property
    def num_rows(self) -> int:
        """Number of rows, over all images of the block."""
        return (self.samples.stop - self.samples.start) * (self.rows.stop - self.rows.start)


def split_rows(x: Tensor, num_samples: int, num_rows: int, bytes_of_row: int) -> list[Block]:
    """The rows of images of x in equal blocks, of about CACHE_BYTES for each thread.

    Of a meta tensor only two blocks, which stand for all: one is freed after the next one is made.
    """
    rows, num = at_once(num_rows, bytes_of_row), at_once(num_samples, num_rows * bytes_of_row)
    blocks = [
        Block(slice(sample, sample + num), slice(row, row + rows))
        for sample in range(0, num_samples, num)
        for row in range(0, num_rows, rows)
    ]
    return blocks[:2] if x.is_meta else blocks


def at_once(number: int, bytes_of_one: int) -> int:
    """How many of a number of equal items one block holds: a divisor of the number, at least 1."""
    return largest_divisor(number, max(CACHE_BYTES * torch.get_num_threads() // bytes_of_one, 1))


def largest_divisor(number: int, most: int) -> int:
    """The largest divisor of a number that is not larger than `most`."""
    return next(divisor for divisor in range(min(number, most), 0, -1) if number % divisor == 0)
