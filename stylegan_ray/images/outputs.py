"""Pictures that cannot be written are named with their option, before anything is computed."""

from __future__ import annotations

import os
from collections.abc import Sequence

from stylegan_ray.config import ConfigError
from stylegan_ray.untrusted import printable

MOST_PIXELS = 1 << 30
"""Pixels of a grid, at most; PNG itself ends at 2^31 in a row."""
GIVE_OUTDIR = "give --outdir without --grid"


def check_png(path: str, option: str) -> None:
    """Raises ConfigError for a name that ends as other files do; one without an ending is that of a PNG file, too."""
    ending = os.path.splitext(path)[1]
    if ending.lower() not in ("", ".png"):
        raise ConfigError(
            f"{option} {printable(path)} is written as PNG, and its name ends in {printable(ending)}; give a name that "
            "ends in .png"
        )


def check_grid(num: int, resolution: Sequence[int], named: str, way_out: str = GIVE_OUTDIR) -> None:
    """Raises ConfigError where the images, which options name, are too many for one picture."""
    height, width = resolution
    if num * height * width > MOST_PIXELS:
        raise ConfigError(
            f"{named}: a grid of {num} images of {width}x{height} is too large for one file; {way_out}, or at most "
            f"{MOST_PIXELS // (height * width)} images"
        )
