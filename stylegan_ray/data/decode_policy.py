"""Decides how images are decoded, from the index and the data section; or explains why they cannot be."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from stylegan_ray.config import DataConfig
from stylegan_ray.credentials import logger_of
from stylegan_ray.data.decode import FAINT_BITS, FAINT_UNIT, IS_FLOAT, IS_REDUCED, UNIT, Decoder, crop_box
from stylegan_ray.data.errors import DataError
from stylegan_ray.data.index import IS_BAD, IS_COLOR, IS_TRANSPARENT, Index
from stylegan_ray.data.left_out import list_names, quoted
from stylegan_ray.untrusted import printable

Size = tuple[int, int]

log = logger_of(__name__)


def choose_decoder(cfg: DataConfig, index: Index, path: str) -> Decoder:
    """How to decode the images; raises DataError when the data section does not make them alike."""
    good = np.flatnonzero(index.flags & IS_BAD == 0)
    if index.bad and (cfg.on_bad_image == "error" or not len(good)):
        raise DataError(
            f"data.path={path}: {len(index.bad)} of {len(index.names)} images cannot be used: {_reasons(index)}; "
            "repair or remove them, or use others in their place with --data.on_bad_image skip"
        )
    resolution = _choose_resolution(cfg, index, good, path)
    check_resolution(resolution, path)
    channels = _choose_channels(cfg, index, good, path)
    _check_alpha(cfg, index, good, path)
    check_bits(cfg, index, path)
    bits, float_bits = choose_bits(cfg, index)
    return Decoder(
        resolution, channels, crop=cfg.crop, resize=cfg.resize, alpha=cfg.alpha, bits=bits, float_bits=float_bits,
        max_bytes=cfg.max_image_mb << 20, extra_formats=cfg.extra_formats,
    )  # fmt: skip


def requested_resolution(cfg: DataConfig) -> Size | None:
    """data.resolution as (height, width)."""
    return (cfg.resolution, cfg.resolution) if isinstance(cfg.resolution, int) else cfg.resolution


def check_resolution(size: Size, path: str) -> None:
    """Raises DataError when the networks cannot be built for this size."""
    from stylegan_ray.networks.shapes import level_sizes  # here, since processes that only decode need no torch

    try:
        level_sizes(size)
    except ValueError as error:
        raise DataError(f"data.path={path}: {error}, or {_way_out(min(size))}") from error


def _choose_resolution(cfg: DataConfig, index: Index, good: np.ndarray, path: str) -> Size:
    sizes = _sizes(index, good)
    wanted = requested_resolution(cfg)
    if wanted is None:
        return _common_size(cfg, sizes, index, good, path)
    misfits = [size for size in sizes if crop_box(*size, wanted, cfg.crop, cfg.resize) is None]
    if misfits:
        names = _names_of_size(index, good, misfits[0])
        raise DataError(
            f"data.resolution={_text(wanted)}, but data.path={path} holds images of {_some_sizes(misfits)} "
            f"(height x width), e.g. {names}; {_way_out_of_misfits(cfg, misfits, wanted)}"
        )
    return wanted


def _common_size(cfg: DataConfig, sizes: list[Size], index: Index, good: np.ndarray, path: str) -> Size:
    """The one size that all images have, after they are cropped to a square where data.crop asks for it."""
    used = sorted({(min(size), min(size)) for size in sizes}) if cfg.crop == "center" else sizes
    if len(used) > 1:
        examples = "; ".join(f"{_text(size)}: {_names_of_size(index, good, size)}" for size in sizes[:2])
        raise DataError(
            f"data.path={path} holds images of {len(sizes)} sizes (height x width: {examples}), but they must have "
            f"one; try {_way_out(int(np.median([min(size) for size in sizes])))}"
        )
    return used[0]


def _sizes(index: Index, good: np.ndarray) -> list[Size]:
    """The different sizes (height, width), most frequent first."""
    joint = (index.height[good].astype(np.uint64) << np.uint64(32)) | index.width[good]
    values, counts = np.unique(joint, return_counts=True)
    ordered = values[np.argsort(-counts, kind="stable")]
    return [(int(value) >> 32, int(value) & 0xFFFFFFFF) for value in ordered]


def _choose_channels(cfg: DataConfig, index: Index, good: np.ndarray, path: str) -> int:
    if cfg.channels is not None:
        return cfg.channels
    color = index.flags[good] & IS_COLOR != 0
    if color.any() and not color.all():
        raise DataError(
            f"data.path={path} holds {int(color.sum())} color and {int((~color).sum())} gray images (e.g. "
            f"{quoted(index.names[int(good[color][0])])} and {quoted(index.names[int(good[~color][0])])}); "
            "choose with --data.channels 3 or --data.channels 1"
        )
    return 3 if color.all() else 1


def _check_alpha(cfg: DataConfig, index: Index, good: np.ndarray, path: str) -> None:
    transparent = good[index.flags[good] & IS_TRANSPARENT != 0]
    if len(transparent) and cfg.alpha == "error":
        names = list_names([index.names[int(entry)] for entry in transparent[:3]])
        raise DataError(
            f"data.path={path}: {len(transparent)} images are transparent, e.g. {names}; "
            "composite them on --data.alpha white or black, or drop their alpha channel with --data.alpha drop"
        )


def choose_bits(cfg: DataConfig, index: Index) -> tuple[int, int]:
    """Bits of gray images with more than 8, and of the range of floats: as the largest value of all needs them."""
    depths = _depths(index)
    whole, floats = depths.whole.max(initial=0), depths.floats.max(initial=-1)
    return cfg.bits or int(whole) or 16, 16 if floats < 0 else int(floats) or UNIT


class Depths(NamedTuple):
    """Bits that the values of images need, int [n]; -1 where an image is of another kind, or cannot be used."""

    whole: np.ndarray
    """Of gray images with more than 8 bits."""
    floats: np.ndarray
    """UNIT or FAINT_UNIT for those from 0 to 1."""
    reduced: np.ndarray
    """Of images with 16-bit colors, of which Pillow keeps the high byte only."""


def _depths(index: Index) -> Depths:
    depth = np.zeros(len(index.names), dtype=np.uint8) if index.depth is None else index.depth
    bits, is_good = (depth & 0x3F).astype(np.int64), index.flags & IS_BAD == 0
    kinds = (depth > 0) & (depth < IS_REDUCED), depth & IS_FLOAT != 0, depth & IS_REDUCED != 0
    return Depths(*(np.where(is_good & kind, bits, -1) for kind in kinds))


def check_bits(cfg: DataConfig, index: Index, path: str) -> None:
    """Logs how deep images are reduced to 8 bits, and which of them that makes nearly black.

    Raises DataError where floats have several ranges, and where all 16-bit colors become nearly black.
    """
    bits, float_bits = choose_bits(cfg, index)
    whole, floats, reduced = _depths(index)
    num = [int((depths >= 0).sum()) for depths in (whole, floats, reduced)]
    if num[2] and (cfg.bits or reduced.max()) < 16:
        raise DataError(
            f"data.path={path}: the values of {num[2]} images with 16 bits per channel, e.g. "
            f"{_example(index, reduced >= 0)}, need only {cfg.bits or int(reduced.max())} bits, and would be "
            "nearly black; convert them to 8 bits per channel, or use them as they are with --data.bits 16"
        )
    is_unit = (floats == UNIT) | (floats == FAINT_UNIT)
    if is_unit.any() and float_bits != UNIT:
        raise DataError(
            f"data.path={path}: the floats of {_example(index, is_unit)} are from 0 to 1, and those of "
            f"{_example(index, floats > UNIT)} up to {(1 << float_bits) - 1}; give all of them one range, or convert "
            "them to 8 or 16 bits"
        )
    if num[0] and bits < 16 and cfg.bits is None:
        log.warning(
            "data.path=%s: the largest value of %d images with 16 or 32 bits needs %d: values are divided by %d; "
            "--data.bits 16 divides them by 256", path, num[0], bits, 1 << (bits - 8),
        )  # fmt: skip
    if num[1]:
        top = "1" if float_bits == UNIT else str((1 << float_bits) - 1)
        log.warning("data.path=%s: the floats of %d images are taken as 0 to %s", path, num[1], top)
    _warn_of_dark(cfg, index, path, bits, float_bits)


def _warn_of_dark(cfg: DataConfig, index: Index, path: str, bits: int, float_bits: int) -> None:
    """Logs which images become nearly black: they use little of the range that is chosen for all of their kind."""
    whole, floats, reduced = _depths(index)
    highest = FAINT_UNIT if float_bits == UNIT else float_bits - FAINT_BITS
    dim = (whole >= 0) & (whole <= bits - FAINT_BITS)
    found = [((floats >= 0) & (floats <= highest), "scale them to the range of the others, or of 0 to 1")]
    if cfg.bits is None:
        enough = int(whole[dim].max(initial=0))
        found += [
            (dim, f"choose the range with --data.bits {enough}, in which larger values become white"),
            ((reduced >= 0) & (reduced <= 16 - FAINT_BITS), "convert them to 8 bits per channel"),
        ]
    for are_dark, way_out in found:
        if num := int(are_dark.sum()):
            log.warning(
                "data.path=%s: %d images with more than 8 bits, e.g. %s, have no value above a sixteenth of the range, "
                "and become nearly black; %s", path, num, _example(index, are_dark), way_out,
            )  # fmt: skip


def _example(index: Index, are_meant: np.ndarray) -> str:
    """The names of the first few of some images."""
    return list_names([index.names[int(entry)] for entry in np.flatnonzero(are_meant)[:3]])


def _reasons(index: Index, most: int = 3) -> str:
    listed = "; ".join(
        f"{quoted(index.names[entry])} {printable(index.bad[entry])}" for entry in sorted(index.bad)[:most]
    )
    return listed if len(index.bad) <= most else f"{listed}; and {len(index.bad) - most} more"


def _names_of_size(index: Index, good: np.ndarray, size: Size) -> str:
    here = good[(index.height[good] == size[0]) & (index.width[good] == size[1])]
    return quoted(index.names[int(here[0])]) + (f" and {len(here) - 1} more" if len(here) > 1 else "")


def _way_out_of_misfits(cfg: DataConfig, misfits: list[Size], wanted: Size) -> str:
    if cfg.resize == "none" and any(size[0] < wanted[0] or size[1] < wanted[1] for size in misfits):
        return "scale them with --data.resize lanczos --data.crop center, or choose a smaller data.resolution"
    return f"try {_way_out(wanted)}"


def _way_out(size: int | Size) -> str:
    """Options that make images of any size fit."""
    if isinstance(size, int):
        size = max(1 << (size.bit_length() - 1), 8)
    height, width = (size, size) if isinstance(size, int) else size
    side = str(height) if height == width else f"{height} {width}"
    return f"--data.resolution {side} --data.crop center --data.resize lanczos"


def _text(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


def _some_sizes(sizes: list[Size]) -> str:
    return ", ".join(map(_text, sizes[:3])) + (f" and {len(sizes) - 3} other sizes" if len(sizes) > 3 else "")
