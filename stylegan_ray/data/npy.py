"""Arrays in the .npy format, read as strangers' files: the header is compared with the bytes that there are."""

from __future__ import annotations

import io
import math

import numpy as np
from numpy.lib import format

from stylegan_ray.untrusted import short_repr

HEADERS = {(1, 0): format.read_array_header_1_0, (2, 0): format.read_array_header_2_0}


def parse_npy(content: bytes) -> tuple[np.ndarray, int]:
    """An array of plain numbers, which shares the memory of the content, and the bytes that it takes of it.

    Raises ValueError for other arrays, and where the header claims more than the content holds.
    """
    stream = io.BytesIO(content)
    version = format.read_magic(stream)
    if version not in HEADERS:
        raise ValueError(f"it is of version {version[0]}.{version[1]}, not 1.0 or 2.0")
    try:
        shape, fortran_order, dtype = HEADERS[version](stream)
    except Exception as error:  # numpy parses the header as Python's literals, with the errors of that parser
        raise ValueError(f"its header cannot be read: {type(error).__name__}") from error
    if dtype.kind not in "biuf" or not all(type(size) is int and 0 <= size < 1 << 63 for size in shape):
        raise ValueError(f"it is an array of {dtype} of shape {short_repr(shape)}, not of plain numbers")
    begin, num = stream.tell(), math.prod(shape)
    if num * dtype.itemsize > len(content) - begin:
        raise ValueError(f"it holds {len(content) - begin} bytes for an array of shape {short_repr(shape)}")
    values = np.frombuffer(memoryview(content)[begin:], dtype=dtype, count=num)
    return values.reshape(shape, order="F" if fortran_order else "C"), begin + num * dtype.itemsize
