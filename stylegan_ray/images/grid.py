"""Image grids: which images they show, conversion of network outputs to bytes, tiling and PNG files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from stylegan_ray.data.encode import encode_png
from stylegan_ray.networks.generator import Generator
from stylegan_ray.networks.shapes import images_at_once
from stylegan_ray.rng import permuted, stream, stream_key

Layout = Literal["random", "row_per_class", "col_per_class"]
Range = tuple[float, float]

# Width, height, and the fewest columns and rows, which images that are too large for the screen have.
SCREENS = {"1080p": (1920, 1080, 3, 2), "4k": (3840, 2160, 7, 4), "8k": (7680, 4320, 7, 4)}
MOST_TILES = 32


class Labeled(Protocol):
    """The part of a data set that the choice of images reads."""

    @property
    def num_images(self) -> int: ...

    @property
    def label_size(self) -> int: ...

    def labels(self, indices: np.ndarray) -> np.ndarray: ...


def grid_shape(grid_size: str | Sequence[int], resolution: tuple[int, int]) -> tuple[int, int]:
    """Columns and rows of a grid of images of resolution (H, W): as given, or as many as fill a screen."""
    if not isinstance(grid_size, str):
        cols, rows = grid_size
        return cols, rows
    width, height, fewest_cols, fewest_rows = SCREENS[grid_size]
    cols = min(max(width // resolution[1], fewest_cols), MOST_TILES)
    rows = min(max(height // resolution[0], fewest_rows), MOST_TILES)
    return cols, rows


def choose_reals(dataset: Labeled, layout: Layout, seed: int, shape: tuple[int, int]) -> np.ndarray:
    """Indices [cols*rows] of the reals of a grid, row by row; a data set that is too small repeats.

    Raises ValueError for a layout by class on a data set without labels.
    """
    cols, rows = shape
    check_layout(dataset, layout)
    if layout == "random":
        places = np.arange(cols * rows) % dataset.num_images
        return permuted(places, dataset.num_images, stream_key(seed, 0, "grid/reals"))
    lines, length = (rows, cols) if layout == "row_per_class" else (cols, rows)
    chosen = np.stack(_images_per_class(dataset, seed, lines, length))  # [lines,length]
    return (chosen if layout == "row_per_class" else chosen.T).reshape(-1)


def check_layout(dataset: Labeled, layout: Layout) -> None:
    """Raises ValueError for a layout by class on a data set without labels."""
    if layout != "random" and not dataset.label_size:
        raise ValueError(
            f"train.grid_layout={layout} needs labels, and the data set is read without them; "
            f"set data.cond true (where the data has labels) or train.grid_layout random"
        )


def choose_latents(seed: int, num: int, z_dim: int) -> Tensor:
    """The fixed latents [num, z_dim] of a run's grids; a larger grid starts with those of a smaller one."""
    key = stream_key(seed, 0, "grid/z")
    rows = [stream(key, i).standard_normal(z_dim, dtype=np.float32) for i in range(num)]
    return torch.from_numpy(np.stack(rows))


def snapshot_fakes(
    G_ema: Generator, z: Tensor, labels: Tensor | None, drange_net: Range = (-1, 1), lod: float = 0
) -> Tensor:
    """Fakes of the latents as uint8 [N,C,H,W] on the CPU: fixed noise, no truncation."""
    where = next(G_ema.parameters())
    size = images_at_once(G_ema.resolution)
    chunks = []
    with torch.no_grad():
        for begin in range(0, len(z), size):
            part = slice(begin, begin + size)
            label = None if labels is None else labels[part].to(where)
            chunks.append(pil_uint8(G_ema(z[part].to(where), label, noise="const", lod=lod), drange_net).cpu())
    return torch.cat(chunks)


def to_uint8(images: Tensor, drange: Range = (-1, 1)) -> Tensor:
    """Images in drange as uint8, by adding a half and truncating, as metrics are computed on them."""
    scale = 255 / (drange[1] - drange[0])
    return (images * scale + (0.5 - drange[0] * scale)).clamp(0, 255).to(torch.uint8)


def pil_uint8(images: Tensor, drange: Range = (-1, 1)) -> Tensor:
    """Images in drange as uint8, halves rounded to even, as image files store them."""
    scale = 255 / (drange[1] - drange[0])
    return (images * scale - drange[0] * scale).round().clamp(0, 255).to(torch.uint8)


def shrink2(images: Tensor) -> Tensor:
    """Images [N,C,H,W] at half the size, by the mean of 2x2 pixels."""
    return nn.functional.avg_pool2d(images, 2)


def image_grid(images: Tensor, cols: int | None = None, rows: int | None = None) -> Tensor:
    """Images [N,C,H,W] side by side, row by row, as one [C,rows*H,cols*W]; unused tiles are zero."""
    num, channels, height, width = images.shape
    cols = cols or math.ceil(math.sqrt(num))
    rows = rows or math.ceil(num / cols)
    assert num <= cols * rows, f"{num} images do not fit into {cols} columns and {rows} rows"
    places = images.new_zeros(rows * cols, channels, height, width)
    places[:num] = images
    tiles = places.reshape(rows, cols, channels, height, width)  # [R,K,C,H,W]
    return tiles.permute(2, 0, 3, 1, 4).reshape(channels, rows * height, cols * width)


def png(image: Tensor) -> bytes:
    """The PNG file of an image uint8 [C,H,W]: gray with 1 channel, RGB with 3."""
    # Level 1 encodes a large grid several times faster than the default; the file is some percent larger.
    return encode_png(image.cpu().numpy(), compress_level=1)


def _images_per_class(dataset: Labeled, seed: int, lines: int, length: int) -> list[np.ndarray]:
    """`length` images of one class for each line; classes follow one another and start again."""
    classes = _classes(dataset)
    present = np.unique(classes)
    chosen = []
    for line in range(lines):
        repeat, number = divmod(line, len(present))
        members = np.flatnonzero(classes == present[number])
        # A repeated class continues where its last line ended.
        places = (np.arange(length) + repeat * length) % len(members)
        key = stream_key(seed, 0, "grid/reals", int(present[number]))
        chosen.append(members[permuted(places, len(members), key)])
    return chosen


def _classes(dataset: Labeled, chunk: int = 4096) -> np.ndarray:
    """The class of every image: the largest entry of its label."""
    parts = [np.arange(i, min(i + chunk, dataset.num_images)) for i in range(0, dataset.num_images, chunk)]
    return np.concatenate([dataset.labels(part).argmax(axis=1) for part in parts])
