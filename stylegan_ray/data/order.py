"""Which image belongs to a sample position: a new permutation of all images in every pass."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from stylegan_ray.rng import permuted, stream_key

BLOCK_ROWS = 128
"""Rows of a block in data.shuffle=blocks, where the format names no other number."""
WINDOW_BLOCKS = 16
"""Number of neighboring blocks (after they are permuted) whose rows are permuted together."""

TABLE_UP_TO = 1 << 16
"""Up to so many images, the permutation of a pass is a cached table, which is faster than computing it."""


def image_index(
    seed: int,
    stream_salt: int,
    positions: np.ndarray,
    num_images: int,
    shuffle: str = "full",
    block_rows: int = BLOCK_ROWS,
    window_blocks: int = WINDOW_BLOCKS,
) -> np.ndarray:
    """The image index at each sample position int64 [n], a function of the arguments alone."""
    passes, places = np.divmod(np.asarray(positions, dtype=np.int64), num_images)
    images = np.empty_like(places)
    for data_pass in np.unique(passes).tolist():
        here = passes == data_pass
        key = stream_key(seed, stream_salt, "order", data_pass)
        if shuffle == "full":
            images[here] = _full_shuffle(places[here], num_images, key)
        else:
            images[here] = _block_shuffle(places[here], num_images, key, block_rows, window_blocks)
    return images


def balanced_index(seed: int, stream_salt: int, positions: np.ndarray, classes: Sequence[np.ndarray]) -> np.ndarray:
    """The image index at each sample position int64 [n], every class once in each round of as many positions.

    `classes` holds the image indices of each class; the images of a class are permuted anew in each pass over them.
    """
    positions = np.asarray(positions, dtype=np.int64)
    rounds, places = np.divmod(positions, len(classes))
    images = np.empty_like(positions)
    for i, (round_number, place) in enumerate(zip(rounds.tolist(), places.tolist(), strict=True)):
        key = stream_key(seed, stream_salt, "order/classes", round_number)
        chosen = int(_pass_table(len(classes), key)[place])
        data_pass, place_in_class = divmod(round_number, len(classes[chosen]))
        key = stream_key(seed, stream_salt, "order/class", chosen, data_pass)
        images[i] = classes[chosen][permuted(np.array([place_in_class]), len(classes[chosen]), key)[0]]
    return images


def _full_shuffle(places: np.ndarray, num_images: int, key: tuple[int, int]) -> np.ndarray:
    if num_images > TABLE_UP_TO:
        return permuted(places, num_images, key)
    return _pass_table(num_images, key)[places]


@lru_cache(maxsize=4)
def _pass_table(num_images: int, key: tuple[int, int]) -> np.ndarray:
    return permuted(np.arange(num_images), num_images, key)


def _block_shuffle(
    places: np.ndarray, num_images: int, key: tuple[int, int], block_rows: int, window_blocks: int
) -> np.ndarray:
    """Permutes blocks in the whole pass, then rows inside windows of blocks."""
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
    """For the blocks in the order of this pass: the first row of each, and the place where it starts (and the end)."""
    num_blocks = -(-num_images // block_rows)
    first_rows = permuted(np.arange(num_blocks), num_blocks, stream_key(*key, "blocks")) * block_rows
    # The last block of the data may be short, wherever the permutation puts it.
    sizes = np.minimum(block_rows, num_images - first_rows)
    return first_rows, np.concatenate([[0], np.cumsum(sizes)])
