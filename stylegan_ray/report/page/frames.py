"""The frames of the image strip: the same few tiles of each grid, as small WebP files."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from PIL import Image

from stylegan_ray.data.decode import open_image
from stylegan_ray.storage import Storage
from stylegan_ray.untrusted import UserError

MOST_FRAMES = 60
MOST_PIXELS = 512
"""Of a side of a frame."""
MOST_TILES = 8
"""Columns and rows of a frame at most: small images are enlarged by the browser."""
MOST_BYTES = 12 << 20
"""Of all frames together, before base64 makes them a third larger."""
MOST_FILE_BYTES, MOST_GRID_BYTES = 1 << 26, 1 << 28
"""Of a grid, encoded and decoded; one of 8192x8192 pixels takes 201 MB."""
QUALITIES = (90, 80, 65, 45, 25)


@dataclass(frozen=True)
class Frame:
    """Some tiles of a grid at a clock value."""

    nimg: int
    webp: bytes

    @property
    def address(self) -> str:
        """The frame as an address that a page can hold."""
        return f"data:image/webp;base64,{base64.b64encode(self.webp).decode()}"


def chosen(nimgs: Sequence[int]) -> list[int]:
    """Indices of at most MOST_FRAMES grids, evenly spread, the first and the last among them."""
    num = len(nimgs)
    if num <= MOST_FRAMES:
        return list(range(num))
    return sorted({round(i * (num - 1) / (MOST_FRAMES - 1)) for i in range(MOST_FRAMES)})


def read_frames(run: Storage, names: Sequence[str], nimgs: Sequence[int], tile: tuple[int, int]) -> list[Frame]:
    """The frames of grids of images of size `tile` = (height, width); a damaged grid is left out.

    They get a lower quality where they would take more than MOST_BYTES together.
    """
    images: list[tuple[int, Image.Image]] = []
    for name, nimg in zip(names, nimgs, strict=True):
        with suppress(OSError, UserError, ValueError):
            images.append((nimg, some_tiles(open_image(run.read(name, MOST_FILE_BYTES), MOST_GRID_BYTES), tile)))
    frames: list[Frame] = []
    for quality in QUALITIES:
        frames = [Frame(nimg, _webp(image, quality)) for nimg, image in images]
        if sum(len(frame.webp) for frame in frames) <= MOST_BYTES:
            break
    return frames


def some_tiles(grid: Image.Image, tile: tuple[int, int]) -> Image.Image:
    """The upper left tiles of a grid, as many as fit into MOST_PIXELS, but at least one; larger ones are reduced."""
    height, width = tile
    cols = min(max(MOST_PIXELS // width, 1), MOST_TILES, max(grid.width // width, 1))
    rows = min(max(MOST_PIXELS // height, 1), MOST_TILES, max(grid.height // height, 1))
    part = grid.crop((0, 0, min(cols * width, grid.width), min(rows * height, grid.height))).convert("RGB")
    part.thumbnail((MOST_PIXELS, MOST_PIXELS), Image.Resampling.LANCZOS)
    return part


def _webp(image: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    image.save(file, "webp", quality=quality, method=2)
    return file.getvalue()
