"""Which picture stands at a sample position: a fresh permutation of all pictures in every pass."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from stylegan_ray.rng import permuted, stream_key

BLOCK_ROWS = 128
"""Neighbours that `blocks` keeps together when it permutes blocks."""
WINDOW_BLOCKS = 16
"""Blocks whose rows `blocks` mixes with each other."""

TABLE_UP_TO = 1 << 16
"""Passes over so few pictures are kept as tables, which are faster to look up than to compute."""


def image_index(
    seed: int,
    stream_salt: int,
    positions: np.ndarray,
    num_images: int,
    shuffle: str = "full",
    block_rows: int = BLOCK_ROWS,
    window_blocks: int = WINDOW_BLOCKS,
) -> np.ndarray:
    """The picture at each sample position; a table only for small data sets, or of blocks."""
    passes, places = np.divmod(np.asarray(positions, dtype=np.int64), num_images)
    images = np.empty_like(places)
    for data_pass in np.unique(passes).tolist():
        here = passes == data_pass
        key = stream_key(seed, stream_salt, "order", data_pass)
        if shuffle == "full":
            images[here] = _in_full(places[here], num_images, key)
        else:
            images[here] = _in_blocks(places[here], num_images, key, block_rows, window_blocks)
    return images


def _in_full(places: np.ndarray, num_images: int, key: tuple[int, int]) -> np.ndarray:
    if num_images > TABLE_UP_TO:
        return permuted(places, num_images, key)
    return _pass_table(num_images, key)[places]


@lru_cache(maxsize=4)
def _pass_table(num_images: int, key: tuple[int, int]) -> np.ndarray:
    return permuted(np.arange(num_images), num_images, key)


def _in_blocks(
    places: np.ndarray, num_images: int, key: tuple[int, int], block_rows: int, window_blocks: int
) -> np.ndarray:
    """Rows are permuted inside windows of blocks, and blocks in the whole pass."""
    first_rows, starts = _block_table(num_images, key, block_rows)
    window_starts = np.append(starts[:-1:window_blocks], num_images)
    windows = np.searchsorted(window_starts, places, side="right") - 1
    mixed = np.empty_like(places)
    for window in np.unique(windows).tolist():
        here, start = windows == window, window_starts[window]
        size = int(window_starts[window + 1] - start)
        mixed[here] = start + permuted(places[here] - start, size, stream_key(*key, "window", window))
    blocks = np.searchsorted(starts, mixed, side="right") - 1
    return first_rows[blocks] + mixed - starts[blocks]


@lru_cache(maxsize=4)
def _block_table(num_images: int, key: tuple[int, int], block_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """For the blocks in the order of this pass: first row of each, and places where they start (one more: the end)."""
    num_blocks = -(-num_images // block_rows)
    first_rows = permuted(np.arange(num_blocks), num_blocks, stream_key(*key, "blocks")) * block_rows
    sizes = np.minimum(block_rows, num_images - first_rows)  # the last block may be short, wherever it lands
    return first_rows, np.concatenate([[0], np.cumsum(sizes)])
