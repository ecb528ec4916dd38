"""Describes images one by one, in any process."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from stylegan_ray.data.decode import (
    ORIENTATION,
    TURNS,
    explain_error,
    in_eight_bits,
    is_gray,
    is_transparent,
    orientation_of,
    raw_mode_of,
    strips,
)
from stylegan_ray.data.doctor.traits import (
    HASH_BYTES,
    TRAITS,
    bars_of,
    flatness_of,
    look_of,
    on_white,
    sharpness_of,
)
from stylegan_ray.data.errors import BadImage
from stylegan_ray.data.formats.protocol import Inspector, StoredImage
from stylegan_ray.data.index import IS_BAD, IS_COLOR, IS_TRANSPARENT
from stylegan_ray.untrusted import printable

HAS_PAGES = frozenset({"GIF", "WEBP", "PNG", "AVIF", "TIFF"})
"""File formats of which images after the first one are not shown; a MPO file of a camera begins with its photo."""
MAX_PAGES = 1000
"""Pages of a TIFF that are counted, which takes Pillow a time that grows with their square."""
GRAY_BITS: Mapping[str, int] = {"I": 32, "F": 32}


@dataclass(frozen=True)
class Examiner:
    """Describes images one by one, in any process."""

    inspect: Inspector
    bits: int = 16
    """Of deep gray images, as in the Decoder of the data set."""
    float_bits: int = 16

    def __call__(self, entries: np.ndarray) -> list[bytes]:
        """A list of facts about each image as JSON (see `describe`), and the bytes of its TRAITS."""
        traits = np.zeros(len(entries), dtype=TRAITS)
        facts = [self.describe(entry, traits[place : place + 1]) for place, entry in enumerate(entries.tolist())]
        return [json.dumps(facts).encode(), traits.tobytes()]

    def describe(self, entry: int, traits: np.ndarray) -> dict[str, Any]:
        """File format, mode and color profile of an image, or what is wrong with it; fills its traits [1]."""
        try:
            stored = self.inspect(entry)
            measure(stored, traits, self.bits, self.float_bits)
            return {"format": stored.file_format, "mode": stored.mode, "profile": profile_of(stored.image)}
        except BadImage as error:
            problem = error.reason
        except OSError as error:
            if error.errno is not None and not isinstance(error, PermissionError):
                raise
            problem = explain_error(error)
        except Exception as error:  # Pillow's readers raise nearly anything on damaged files
            problem = explain_error(error)
        traits["flags"] = IS_BAD
        return {"problem": problem}


def measure(stored: StoredImage, traits: np.ndarray, bits: int = 16, float_bits: int = 16) -> None:
    """Fills the traits [1] of an image, of a deep gray one as training sees it."""
    image, header = stored.image, stored.header or stored.image
    traits["height"], traits["width"] = image.height, image.width
    traits["flags"] = (not is_gray(image)) * IS_COLOR | is_transparent(image) * IS_TRANSPARENT
    traits["num_frames"] = num_frames(header) if stored.file_format in HAS_PAGES else 1
    traits["orientation"] = _orientation(header)
    traits["bits"] = bits_of(header)
    image = in_eight_bits(image, bits, float_bits)
    traits["pixels"] = np.frombuffer(pixel_hash(image), dtype=np.uint8)
    shown = on_white(image)
    bars = bars_of(shown)
    traits["flatness"] = flatness_of(shown)
    traits["bars"], traits["bar_colors"], traits["straightness"] = bars.thickness, bars.colors, bars.straightness
    traits["sharpness"] = sharpness_of(shown.crop(bars.box(shown.height, shown.width)).convert("L"))
    traits["look"], traits["luma"], traits["chroma"] = look_of(shown)


def num_frames(header: Image.Image) -> int:
    """Frames of a file, or pages up to MAX_PAGES; pages that cannot be read are not counted, since none is used."""
    if header.format != "TIFF":
        try:
            return getattr(header, "n_frames", 1)
        except ValueError:  # there are more than are counted
            return header.tell() + 1
    count = 1
    with suppress(Exception):  # EOFError behind the last page; nearly anything on a damaged one
        while count < MAX_PAGES:
            header.seek(count)
            count += 1
    header.seek(0)
    return count


def _orientation(header: Image.Image) -> int:
    """Orientation in EXIF, or in the tag by which Pillow turns a TIFF while it loads it; 1 to 8."""
    if header.format != "TIFF":
        return orientation_of(header)
    found = header.getexif().get(ORIENTATION)
    return int(found) if found in TURNS else 1


def bits_of(header: Image.Image) -> int:
    """Bits per channel that the file stores; only 8 are used."""
    if header.mode in GRAY_BITS:
        return GRAY_BITS[header.mode]
    return 16 if ";16" in header.mode or ";16" in raw_mode_of(header) else 8  # Pillow reads RGB;16B as RGB


def profile_of(image: Image.Image) -> str:
    """The color space of the embedded ICC profile, such as RGB or CMYK; empty without one."""
    profile = image.info.get("icc_profile")
    if not isinstance(profile, bytes) or len(profile) < 128:  # a TIFF can hold other values there
        return ""
    return printable(profile[16:20].decode("latin-1").strip())


def pixel_hash(image: Image.Image) -> bytes:
    """A hash that is equal for images of at most 8 bits with the same pixels, whatever their file format and mode."""
    found = hashlib.blake2b(f"{image.height}x{image.width}:".encode(), digest_size=HASH_BYTES)
    for _, strip in strips(image):
        found.update(strip.convert("RGBA").tobytes())
    return found.digest()
