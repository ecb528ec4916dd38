"""JPEG files that end early: libjpeg makes the rest gray, and Pillow says nothing."""

from __future__ import annotations

import io

from PIL import Image

from stylegan_ray.data.headers import JPEG

GRAY = frozenset({127, 128})
"""Values of the last pixel where libjpeg found no data for it: zeros in all coefficients; in CMYK they are inverted."""
END_OF_IMAGE = b"\xff\xd9"
ARITHMETIC = (b"\xff\xc9", b"\xff\xca")
"""Starts of frames of which the coder may leave out zeros at the end (ITU-T T.81, section D.1.8)."""
FILLER = b"".join(bytes(range(255)) + bytes([0xFF, marker]) for marker in range(0xD0, 0xD8)) + bytes(range(255))
"""Is read as coefficients of many kinds, behind each of the restart markers too."""


def check_end(content: bytes, image: Image.Image) -> None:
    """Raises ValueError for a decoded JPEG of which data of the last pixels is missing, although it has an end.

    Only one with a gray last pixel is looked at, which is rare. Bytes put before its end change the image if there is
    something left to decode, and they do not if all is there.
    """
    if not content.startswith(JPEG) or not _values(image.getpixel((image.width - 1, image.height - 1))) <= GRAY:
        return
    start, end, rest = content.rpartition(END_OF_IMAGE)
    if not any(marker in start for marker in ARITHMETIC) and _small(content) != _small(start + FILLER + end + rest):
        raise ValueError("is cut off before its last pixel; copy or save it again")


def _values(pixel: float | tuple[int, ...] | None) -> set[float]:
    return set(pixel) if isinstance(pixel, tuple) else {pixel or 0}


def _small(content: bytes) -> bytes:
    """The pixels at an eighth of their size, for which all data is read and little memory is taken."""
    with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
        image.draft(None, (1, 1))
        return image.tobytes()
