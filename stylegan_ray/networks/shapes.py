"""Sizes of the levels of a network and their numbers of feature maps."""

from __future__ import annotations

from collections.abc import Sequence

Size = tuple[int, int]

MOST_START = 32
"""Largest side of the first level: its dense layers grow with the square."""


def level_sizes(resolution: int | Sequence[int]) -> list[Size]:
    """Heights and widths of the levels, smallest first, each twice the one before.

    A square power of two starts at 4x4; 512x384 starts at 4x3. Raises ValueError for sizes that cannot be halved down
    to a small start.
    """
    size = (resolution, resolution) if isinstance(resolution, int) else (int(resolution[0]), int(resolution[1]))
    sizes = [size]
    while _can_be_halved(sizes[0]):
        sizes.insert(0, (sizes[0][0] // 2, sizes[0][1] // 2))
    if min(size) < 1 or max(sizes[0]) > MOST_START or len(sizes) < 2:
        step = 2 ** max(max(size).bit_length() - 5, 1)
        nearby = " x ".join(str(max(round(side / step), 1) * step) for side in size)
        raise ValueError(
            f"resolution {size[0]} x {size[1]} cannot be trained: height and width must be a small number (at most "
            f"{MOST_START}) times the same power of two, and the larger at least 8; try {nearby}"
        )
    return sizes


def level_name(size: Size) -> str:
    """Name of the block at a level, e.g. b64."""
    return f"b{max(size)}"


def feature_maps(num: int, base: int, decay: float, least: int, most: int) -> list[int]:
    """Feature maps of stages 0 to num-1; the block at level i (smallest: 0) has those of stage i + 1."""
    return [min(max(int(base / 2 ** (stage * decay)), least), most) for stage in range(num)]


def _can_be_halved(size: Size) -> bool:
    return size[0] % 2 == 0 and size[1] % 2 == 0 and max(size) >= 8
