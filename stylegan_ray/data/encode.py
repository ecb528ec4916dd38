"""Images uint8 [C,H,W] as Pillow images and as PNG files."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image


def to_pil(pixels: np.ndarray) -> Image.Image:
    """A gray or RGB image from uint8 [1,H,W] or [3,H,W]."""
    return Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))


def encode_png(image: np.ndarray | Image.Image, **options: Any) -> bytes:
    """A PNG file of uint8 [1,H,W] or [3,H,W], or of a Pillow image; options are those of Pillow's encoder."""
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else to_pil(image)).save(buffer, format="PNG", **options)
    return buffer.getvalue()
