"""Decodes one image file to uint8 [C,H,W] with Pillow."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from stylegan_ray.data.errors import BadImage

MAX_PIXELS = 1 << 27
"""Larger images are refused before they are decoded: a small file can claim any size (a decompression bomb)."""

FILTERS = {"lanczos": Image.Resampling.LANCZOS, "box": Image.Resampling.BOX}
GREY_MODES = frozenset({"1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L"})
ALPHA_MODES = frozenset({"LA", "La", "PA", "RGBA", "RGBa"})


@dataclass(frozen=True)
class Decoder:
    """Converts images to the resolution and channels of training; the fields enter the data fingerprint.

    With `none` for crop and resize an image of another size is refused.
    """

    resolution: tuple[int, int]
    num_channels: int
    crop: Literal["none", "center"] = "none"
    resize: Literal["none", "lanczos", "box"] = "none"
    alpha: Literal["error", "white", "black", "drop"] = "error"

    def __call__(self, name: str, content: bytes) -> np.ndarray:
        """Pixels uint8 [C,H,W] of an image file; raises BadImage."""
        try:
            return self.convert(open_image(content))
        except Exception as error:  # Pillow's readers raise nearly anything on broken files
            raise BadImage(name, explain_error(error)) from error

    def convert(self, image: Image.Image) -> np.ndarray:
        """Pixels uint8 [C,H,W] of a decoded image; raises ValueError when it has another size or transparent pixels."""
        image = self._fit(self._convert_channels(image))
        if self.num_channels == 1:
            return np.array(image)[None]
        return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))

    def _convert_channels(self, image: Image.Image) -> Image.Image:
        mode = "L" if self.num_channels == 1 else "RGB"
        if image.mode == mode and "transparency" not in image.info:
            return image
        if image.mode.startswith("I"):
            image = to_eight_bits(image)
        if has_alpha(image):
            image = remove_alpha(image, self.alpha)
        return image.convert(mode)

    def _fit(self, image: Image.Image) -> Image.Image:
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


def read_header(content: bytes) -> Image.Image:
    """An image of which only the header is read; raises what Pillow raises, or ValueError above MAX_PIXELS."""
    image = Image.open(io.BytesIO(content))
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"is {image.height}x{image.width} pixels, more than the {MAX_PIXELS} allowed")
    return image


def open_image(content: bytes) -> Image.Image:
    """A decoded image, turned upright as its EXIF orientation says."""
    image = read_header(content)
    image.load()
    return ImageOps.exif_transpose(image) if "exif" in image.info else image


def explain_error(error: Exception) -> str:
    """The reason why an image cannot be decoded, in one line."""
    if isinstance(error, UnidentifiedImageError):
        return "is not an image that Pillow can read"
    text = " ".join(str(error).split())
    return text or type(error).__name__


def has_alpha(image: Image.Image) -> bool:
    return image.mode in ALPHA_MODES or "transparency" in image.info


def is_transparent(image: Image.Image) -> bool:
    """Whether any pixel is not opaque."""
    return has_alpha(image) and image.convert("RGBA").getchannel("A").getextrema()[0] < 255  # type: ignore[operator]


def is_grey(image: Image.Image) -> bool:
    return image.mode in GREY_MODES


def to_eight_bits(image: Image.Image) -> Image.Image:
    """A 16-bit grey image reduced to its high byte."""
    return Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))


def remove_alpha(image: Image.Image, policy: str) -> Image.Image:
    """An opaque RGB image, as data.alpha says; raises ValueError for transparent pixels with policy `error`."""
    image = image.convert("RGBA")
    if policy == "drop":
        return image.convert("RGB")
    if policy == "error":
        if is_transparent(image):
            raise ValueError("is transparent; choose with data.alpha white, black or drop")
        return image.convert("RGB")
    return Image.alpha_composite(Image.new("RGBA", image.size, policy), image).convert("RGB")


def crop_box(
    height: int, width: int, target: tuple[int, int], crop: str, resize: str
) -> tuple[int, int, int, int] | None:
    """The part of an image that is used, as (left, top, right, bottom); None when the image cannot be made to fit."""
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
