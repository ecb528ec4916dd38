"""TFRecord files as bytes: checksums and examples."""

import numpy as np
import pytest

from stylegan_ray.data.formats import tfrecord_wire


def test_masked_crc32c():
    for content, crc in [
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
    ]:  # RFC 3720, B.4
        assert tfrecord_wire.masked_crc32c(content) == ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32


def test_examples_of_other_writers_are_understood():
    """Features in the other order, sizes as unpacked numbers, unknown features in between."""
    payload = tfrecord_wire.encode_example(np.arange(768).astype(np.uint8).reshape(3, 16, 16))
    wanted = tfrecord_wire.parse_example(memoryview(payload))
    field = tfrecord_wire._field
    data = field(1, field(1, b"data") + field(2, field(1, field(1, bytes(12)))))
    shape = field(1, field(1, b"shape") + field(2, field(3, b"\x08\x03\x08\x02\x08\x02")))
    other = field(1, field(1, b"name") + field(2, field(1, field(1, b"x.png"))))
    example = tfrecord_wire.parse_example(memoryview(field(1, data + other + shape)))
    assert (wanted.shape, wanted.data_size) == ((3, 16, 16), 768) and (example.shape, example.data_size) == (
        (3, 2, 2),
        12,
    )


@pytest.mark.parametrize("payload", [b"", b"\x0a", b"\x0a\x05ab", b"\x09abcdefgh", b"\x0a\x02\x0a\x00", b"\xff" * 20])
def test_other_payloads_are_refused(payload):
    with pytest.raises(ValueError):
        tfrecord_wire.parse_example(memoryview(payload))


def test_examples_of_far_too_many_fields_are_refused():
    field, wire = tfrecord_wire._field, tfrecord_wire
    shape = field(1, b"shape") + field(2, field(3, field(1, b"\1\1\1")))
    for payload in (b"\x12\0" * 100_000, field(1, field(1, shape) * 400), field(1, field(1, field(3, b"") * 2000))):
        with pytest.raises(ValueError, match="is not an example of an image: it has more than 1000 fields"):
            wire.parse_example(memoryview(payload))
    image = wire.encode_example(np.zeros((3, 4, 4), np.uint8))
    assert wire.parse_example(memoryview(image + b"\x12\0" * 900)).shape == (3, 4, 4)
