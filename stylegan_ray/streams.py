"""Random streams that are functions of a key and a position; numpy only, so that decoding processes need no torch."""

from __future__ import annotations

from functools import lru_cache

import numpy as np


@lru_cache(maxsize=4096)
def stream_key(seed: int, stream_salt: int, purpose: str, *rest: int) -> tuple[int, int]:
    """The 128-bit key of a stream, as two 64-bit words."""
    words = np.random.SeedSequence([seed, stream_salt, len(purpose), *purpose.encode(), *rest])
    return tuple(words.generate_state(2, np.uint64).tolist())  # type: ignore[return-value]


def stream(key: tuple[int, int], position: int, micro_batch: int = 0) -> np.random.Generator:
    """The generator that stands at a position of a stream; O(1), positions never overlap."""
    # Philox counts in its lowest word, so a position in the second leaves 2^64 blocks to each.
    return np.random.Generator(np.random.Philox(key=key, counter=[0, position, micro_batch, 0]))


def coins(key: tuple[int, int], positions: np.ndarray) -> np.ndarray:
    """A fair coin (bool) at each position; O(1) each, without a generator per position."""
    mixed = _scramble(np.asarray(positions, dtype=np.uint64) ^ np.uint64(key[0]))
    return _scramble(mixed ^ np.uint64(key[1])) >> np.uint64(63) == 1


def permuted(places: np.ndarray, num: int, key: tuple[int, int]) -> np.ndarray:
    """The image of each place in a permutation of range(num) that the key chooses; O(1) each, no table.

    A Feistel network over the next even power of two, walked until it lands inside (Black and Rogaway 2002).
    """
    half_bits = max((int(num - 1).bit_length() + 1) // 2, 1)
    mask = np.uint64((1 << half_bits) - 1)
    round_keys = np.random.SeedSequence(list(key)).generate_state(6, np.uint64)
    values = np.asarray(places, dtype=np.uint64).copy()
    outside = np.ones(values.shape, dtype=bool)
    while outside.any():
        left, right = values[outside] >> np.uint64(half_bits), values[outside] & mask
        for round_key in round_keys:
            left, right = right, left ^ (_scramble(right ^ round_key) & mask)
        values[outside] = (left << np.uint64(half_bits)) | right
        outside = values >= num
    return values.astype(np.int64)


def _scramble(x: np.ndarray) -> np.ndarray:
    """A 64-bit mixing function (the finaliser of splitmix64, public domain constants)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
