"""What becomes of one image file."""

import struct
import zlib

import numpy as np
import pytest
from support.data_sets import opened, write_folder

from stylegan_ray.data import DataError
from stylegan_ray.data.decode import Decoder
from stylegan_ray.data.errors import BadImage

SIDE = 16


def chunk(kind, body=b""):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_of(bits, rows, key, interlace=0):
    """A PNG with values [H,W] or [H,W,3] of so many bits, and a transparent color."""
    values = np.asarray(rows)
    if bits == 16:
        packed = values.astype(">u2").reshape(SIDE, -1).view(np.uint8)
    else:
        binary = values.reshape(SIDE, -1, 1) >> np.arange(bits)[::-1] & 1
        packed = np.packbits(binary.reshape(SIDE, -1).astype(bool), axis=1)
    lines = b"".join(b"\0" + row.tobytes() for row in packed)
    header = struct.pack(">IIBBBBB", SIDE, SIDE, bits, 2 if values.ndim == 3 else 0, 0, 0, interlace)
    key = np.atleast_1d(key).astype(">u2").tobytes()
    chunks = (chunk(b"IHDR", header), chunk(b"tRNS", key), chunk(b"IDAT", zlib.compress(lines)), chunk(b"IEND"))
    return b"".join((b"\x89PNG\r\n\x1a\n", *chunks))


COLOR_KEYS = [
    (1, 1, 0), (2, 1, 2), (4, 9, 8), (8, 7, 8), (16, 40000, 40001), (8, (1, 2, 3), (1, 2, 4)),
    (16, (4660, 22136, 65535), (4660, 22136, 65534)),
]  # fmt: skip


@pytest.mark.parametrize(("bits", "key", "other"), COLOR_KEYS)
def test_transparent_colors_of_any_depth(tmp_path, bits, key, other):
    values = np.full((SIDE, SIDE, *np.shape(key)), other)
    values[:4] = key
    root = write_folder(tmp_path / "d", {"a.png": png_of(bits, values, key)})
    with pytest.raises(DataError, match=r"'a.png'.*--data.alpha white"):
        opened(root)
    dropped, white, black = (opened(root, alpha=policy, bits=16).read(0) for policy in ("drop", "white", "black"))
    assert (white[:, :4] == 255).all() and (black[:, :4] == 0).all()
    assert np.shape(key) == (dropped.shape[0],) * (dropped.shape[0] > 1)
    for composited in (white, black):
        np.testing.assert_array_equal(composited[:, 4:], dropped[:, 4:])
    expected = np.atleast_1d(np.array(other) * 65535 // (2**bits - 1) >> 8)
    np.testing.assert_array_equal(dropped[:, 5, 5], expected)


@pytest.mark.parametrize(("bits", "key", "other"), COLOR_KEYS)
def test_transparent_colors_that_no_pixel_has(bits, key, other):
    content = png_of(bits, np.full((SIDE, SIDE, *np.shape(key)), other), key)
    assert Decoder((SIDE, SIDE), 3)("a.png", content).shape == (3, SIDE, SIDE)
    with pytest.raises(BadImage, match="is transparent"):
        Decoder((SIDE, SIDE), 3)("a.png", png_of(bits, np.full((SIDE, SIDE, *np.shape(key)), key), key))
