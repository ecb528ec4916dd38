"""Sizes of the levels of a network, and their numbers of feature maps."""

from __future__ import annotations

from collections.abc import Sequence

Size = tuple[int, int]

MAX_START = 20
"""Largest side of the first level, whose dense layers grow with its square."""

PIXELS_AT_ONCE = 64 * 128 * 128
"""Pixels per forward pass of a generator that only shows images, at most; one image is always allowed."""


def level_sizes(resolution: int | Sequence[int]) -> list[Size]:
    """Heights and widths of the levels, smallest first, each twice the one before.

    A square power of two starts at 4x4; 512x384 starts at 4x3. Raises ValueError for sizes that cannot be halved down
    to a small start.
    """
    size = (resolution, resolution) if isinstance(resolution, int) else (int(resolution[0]), int(resolution[1]))
    sizes = _halved(size)
    if not _is_allowed(sizes):
        raise ValueError(
            f"resolution {size[0]} x {size[1]} cannot be trained: height and width must be small numbers (at most "
            f"{MAX_START}) times the same power of two, and the larger one at least 8; try {_nearby(size)}"
        )
    return sizes


def _halved(size: Size) -> list[Size]:
    sizes = [size]
    while sizes[0][0] % 2 == 0 and sizes[0][1] % 2 == 0 and max(sizes[0]) >= 8:
        sizes.insert(0, (sizes[0][0] // 2, sizes[0][1] // 2))
    return sizes


def _is_allowed(sizes: list[Size]) -> bool:
    return len(sizes) > 1 and min(sizes[0]) > 0 and max(sizes[0]) <= MAX_START


def _nearby(size: Size) -> str:
    """An allowed size close to this one: the nearest multiples of the smallest power of two that is allowed."""
    for power in range(1, 30):
        height, width = (max(round(side / 2**power), 1) * 2**power for side in size)
        if _is_allowed(_halved((height, width))):
            return f"{height} x {width}"
    return "256 x 256"


def level_name(size: Size) -> str:
    """Name of the block at a level, e.g. b64."""
    return f"b{max(size)}"


def feature_maps(num: int, base: int, decay: float, minimum: int, maximum: int) -> list[int]:
    """Numbers of feature maps of stages 0 to num-1; the block at level i (smallest: 0) has that of stage i + 1."""
    return [min(max(int(base / 2 ** (stage * decay)), minimum), maximum) for stage in range(num)]


def is_lowp(level: int, num_levels: int, num_lowp_res: int) -> bool:
    """Whether a level is among the highest `num_lowp_res`; the first level never is."""
    return level >= max(num_levels - num_lowp_res, 1)


def images_at_once(resolution: Size) -> int:
    """Images (H, W) per forward pass of a generator that only shows them: 64 up to 128x128 pixels, fewer above."""
    return max(min(PIXELS_AT_ONCE // (resolution[0] * resolution[1]), 64), 1)
