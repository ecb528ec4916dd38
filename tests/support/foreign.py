"""Files of other programs' data sets, written as the descriptions of their formats say."""

import io
import struct


def idx(array):
    """MNIST's format: two zeros, 8 for bytes, the number of dimensions, big-endian sizes."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def python2_pickle(tree):
    """A pickle of protocol 2 as Python 2 and its numpy write it: texts as byte strings, and arrays by their parts."""
    out = io.BytesIO()
    out.write(b"\x80\x02")

    def put(value):
        if isinstance(value, dict):
            out.write(b"}(")
            for pair in value.items():
                put(pair[0])
                put(pair[1])
            out.write(b"u")
        elif isinstance(value, list):
            out.write(b"](")
            for item in value:
                put(item)
            out.write(b"e")
        elif isinstance(value, bytes):
            out.write(b"T" + struct.pack("<i", len(value)) + value)
        elif isinstance(value, int):
            out.write(b"J" + struct.pack("<i", value))
        else:
            put_array(value)

    def put_array(array):
        out.write(b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01")
        put(array.shape[0])
        put(array.shape[1])
        out.write(
            b"\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        )
        put(array.tobytes())
        out.write(b"tb")

    put(tree)
    out.write(b".")
    return out.getvalue()
