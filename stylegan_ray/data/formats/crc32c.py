"""CRC-32C (Castagnoli) of many equally long byte strings at once, in numpy."""

from __future__ import annotations

import sys
from functools import lru_cache

import numpy as np

POLYNOMIAL = np.uint32(0x82F63B78)  # bit-reversed; RFC 3720, appendix B.4
MASK_DELTA = np.uint32(0xA282EAD8)  # TFRecord stores CRCs rotated and shifted by this, since data may hold CRCs too
MAX_LANES = 1 << 13
MIN_CHUNK = 32


def masked_crc32c(rows: np.ndarray) -> np.ndarray:
    """The CRC of each row as TFRecord files store it: uint8 [N,L] to uint32 [N]."""
    crc = crc32c(rows)
    return (crc >> np.uint32(15) | crc << np.uint32(17)) + MASK_DELTA


def crc32c(rows: np.ndarray) -> np.ndarray:
    """The CRC of each row: uint8 [N,L] to uint32 [N], L at least 4.

    Rows are cut into chunks whose CRCs advance side by side, two bytes a step; the CRCs of neighbours are then
    joined in pairs (a CRC is linear: that of AB is that of A moved over the length of B, xor that of B).
    """
    num, length = rows.shape
    assert length >= 4, "the initial state is folded into the first four bytes"
    num_chunks = _num_chunks(num, length)
    chunk = -(-length // (2 * num_chunks)) * 2
    padded = np.zeros((num, num_chunks * chunk), dtype=np.uint8)
    padded[:, -length:] = rows  # leading zeros do not change a CRC that starts from zero
    padded[:, padded.shape[1] - length :][:, :4] ^= 0xFF  # starting from all ones
    words = np.ascontiguousarray(padded.reshape(num * num_chunks, chunk).view("<u2").T)  # [chunk/2, N*chunks]
    joined, num_bytes = _advanced(words).reshape(num, num_chunks), chunk
    while joined.shape[1] > 1:
        joined = _apply(_zeros_operator(num_bytes), joined[:, ::2]) ^ joined[:, 1::2]
        num_bytes *= 2
    return joined[:, 0] ^ np.uint32(0xFFFFFFFF)


def _advanced(words: np.ndarray) -> np.ndarray:
    """The state of each lane after its words, from zero: uint16 [M,lanes] to uint32 [lanes]."""
    table, lanes = _table16(), words.shape[1]
    state, carry, index = np.zeros(lanes, np.uint32), np.empty(lanes, np.uint32), np.empty(lanes, np.intp)
    low = state.view(np.uint16)[::2] if sys.byteorder == "little" else state.view(np.uint16)[1::2]
    for word in words:
        np.bitwise_xor(low, word, out=index, casting="unsafe")
        np.take(table, index, out=carry, mode="clip")  # clip: no check, no copy
        np.right_shift(state, 16, out=state)
        np.bitwise_xor(state, carry, out=state)
    return state


def _num_chunks(num: int, length: int) -> int:
    """A power of two: many lanes make numpy fast, but short chunks are not worth joining."""
    most = min(MAX_LANES // max(num, 1), length // MIN_CHUNK)
    return 1 << (most.bit_length() - 1) if most > 1 else 1


@lru_cache(maxsize=1)
def _table8() -> np.ndarray:
    """What one byte does to the state."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & np.uint32(1), (table >> np.uint32(1)) ^ POLYNOMIAL, table >> np.uint32(1))
    return table


@lru_cache(maxsize=1)
def _table16() -> np.ndarray:
    """What two bytes do to the state."""
    return _zero_byte(_zero_byte(np.arange(1 << 16, dtype=np.uint32)))


def _zero_byte(state: np.ndarray) -> np.ndarray:
    """The state after one zero byte."""
    return (state >> np.uint32(8)) ^ _table8()[state & np.uint32(0xFF)]


@lru_cache(maxsize=256)
def _zeros_operator(num_bytes: int) -> np.ndarray:
    """The states that each single bit becomes after so many zero bytes, uint32 [32]."""
    if num_bytes == 1:
        return _zero_byte(np.uint32(1) << np.arange(32, dtype=np.uint32))
    half = _zeros_operator(num_bytes // 2)
    whole = _apply(half, half)
    return _zero_byte(whole) if num_bytes % 2 else whole


def _apply(operator: np.ndarray, states: np.ndarray) -> np.ndarray:
    """The states after the operator's zero bytes."""
    result = np.zeros_like(states)
    for bit in range(32):
        result ^= np.where(states >> np.uint32(bit) & np.uint32(1), operator[bit], np.uint32(0))
    return result
