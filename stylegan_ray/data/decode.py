"""One picture file to uint8 [C,H,W], by Pillow."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from stylegan_ray.data.errors import BadImage

MAX_PIXELS = 1 << 27
"""Larger pictures are refused unread: a small file can claim any size (a decompression bomb)."""

FILTERS = {"lanczos": Image.Resampling.LANCZOS, "box": Image.Resampling.BOX}
GREY_MODES = frozenset({"1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L"})
ALPHA_MODES = frozenset({"LA", "La", "PA", "RGBA", "RGBa"})


@dataclass(frozen=True)
class Decoder:
    """How pictures become training pictures; `none` for crop and resize means that they must fit already."""

    resolution: tuple[int, int]
    num_channels: int
    crop: Literal["none", "center"] = "none"
    resize: Literal["none", "lanczos", "box"] = "none"
    alpha: Literal["error", "white", "black", "drop"] = "error"

    def __call__(self, name: str, content: bytes) -> np.ndarray:
        """The pixels [C,H,W] of a picture file; raises BadImage."""
        try:
            return self.pixels(opened(content))
        except Exception as error:  # Pillow's readers raise nearly anything on broken files
            raise BadImage(name, explained(error)) from error

    def pixels(self, image: Image.Image) -> np.ndarray:
        """The pixels [C,H,W] of an opened picture; raises ValueError when it does not fit."""
        image = self._fitted(self._in_channels(image))
        if self.num_channels == 1:
            return np.array(image)[None]
        return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))

    def _in_channels(self, image: Image.Image) -> Image.Image:
        mode = "L" if self.num_channels == 1 else "RGB"
        if image.mode == mode and "transparency" not in image.info:
            return image
        if image.mode.startswith("I"):
            image = eight_bits(image)
        if has_alpha(image):
            image = without_alpha(image, self.alpha)
        return image.convert(mode)

    def _fitted(self, image: Image.Image) -> Image.Image:
        height, width = self.resolution
        if image.size == (width, height):
            return image
        box = crop_box(image.height, image.width, self.resolution, self.crop, self.resize)
        if box is None:
            raise ValueError(f"is {image.height}x{image.width}, not {height}x{width} (height x width)")
        if self.resize == "none":
            return image.crop(box)
        image = image.crop(box)
        return image if image.size == (width, height) else image.resize((width, height), FILTERS[self.resize])


def opened(content: bytes) -> Image.Image:
    """The picture, upright and loaded."""
    image = Image.open(io.BytesIO(content))
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"is {image.height}x{image.width} pixels, more than the {MAX_PIXELS} allowed")
    image.load()
    return ImageOps.exif_transpose(image) if "exif" in image.info else image


def explained(error: Exception) -> str:
    """A reason in one line."""
    if isinstance(error, UnidentifiedImageError):
        return "is not a picture that Pillow can read"
    text = " ".join(str(error).split())
    return text or type(error).__name__


def has_alpha(image: Image.Image) -> bool:
    return image.mode in ALPHA_MODES or "transparency" in image.info


def is_transparent(image: Image.Image) -> bool:
    """Whether any pixel is not opaque."""
    return has_alpha(image) and image.convert("RGBA").getchannel("A").getextrema()[0] < 255  # type: ignore[operator]


def is_grey(image: Image.Image) -> bool:
    return image.mode in GREY_MODES


def eight_bits(image: Image.Image) -> Image.Image:
    """A 16-bit grey picture reduced to its high byte."""
    return Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))


def without_alpha(image: Image.Image, policy: str) -> Image.Image:
    """An opaque RGB picture: on white or black, or with the alpha channel dropped."""
    image = image.convert("RGBA")
    if policy == "drop":
        return image.convert("RGB")
    if policy == "error":
        if is_transparent(image):
            raise ValueError("is transparent (data.alpha white, black or drop decides what becomes of it)")
        return image.convert("RGB")
    return Image.alpha_composite(Image.new("RGBA", image.size, policy), image).convert("RGB")


def crop_box(
    height: int, width: int, target: tuple[int, int], crop: str, resize: str
) -> tuple[int, int, int, int] | None:
    """The part of a picture that is used, as (left, top, right, bottom); None when the picture does not fit."""
    target_height, target_width = target
    if crop == "none":
        same_shape = height * target_width == width * target_height
        fits = same_shape if resize != "none" else (height, width) == target
        return (0, 0, width, height) if fits else None
    if resize == "none":
        used_height, used_width = target_height, target_width
    else:  # the largest part of the target's shape
        used_height = min(height, round(width * target_height / target_width))
        used_width = min(width, round(height * target_width / target_height))
    if used_height > height or used_width > width:
        return None
    left, top = (width - used_width) // 2, (height - used_height) // 2
    return left, top, left + used_width, top + used_height
