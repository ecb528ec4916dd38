"""What a file says about its networks, checked before anything of the sizes that it states is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stylegan_ray.config import ModelConfig
from stylegan_ray.networks.shapes import level_sizes
from stylegan_ray.untrusted import BadFileError, printable

LARGEST_SIDE = 1 << 14
"""Pixels of the larger side of an image, at most."""
MOST_CHANNELS = 64
MOST_LABELS = 1 << 20
LARGEST_CLOCK = 1 << 53
"""Largest cur_nimg."""
MOST_NAMED = 4
"""Tensors that a message names at most."""
MOST_AUGMENT_P = 1e6
DataShape = tuple[tuple[int, int], int, int]
"""Resolution (H, W), number of channels, label size."""
Shapes = dict[str, tuple[int, ...]]


def data_shape(resolution: Any, num_channels: Any, label_size: Any) -> DataShape:
    """Resolution, channels and label size that a file states; raises BadFileError where they are out of range."""
    sides = [resolution, resolution] if isinstance(resolution, int) else resolution
    if not isinstance(sides, list | tuple) or len(sides) != 2:
        raise BadFileError(f"its resolution {printable(resolution, 40)} is not one side or two; {_DAMAGED}")
    height, width = (checked_int(side, "resolution", 4, LARGEST_SIDE) for side in sides)
    channels = checked_int(num_channels, "number of channels", 1, MOST_CHANNELS)
    return (height, width), channels, checked_int(label_size, "label size", 0, MOST_LABELS)


def checked_int(value: Any, what: str, least: int, most: int) -> int:
    """An integer in a range; raises BadFileError."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not least <= value <= most:
        raise BadFileError(f"its {what} {printable(value, 40)} is not an integer from {least} to {most}; {_DAMAGED}")
    return int(value)


def checked_float(value: Any, what: str, least: float, most: float) -> float:
    """A finite number in a range; raises BadFileError."""
    if isinstance(value, np.ndarray | np.generic | Tensor) and value.ndim == 0:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise BadFileError(f"its {what} {printable(value, 40)} is not a number from {least:g} to {most:g}; {_DAMAGED}")
    return float(value)


def checked_augment_p(value: Any, what: str) -> float:
    """A probability of augmentations; raises BadFileError. StyleGAN2-ADA has no upper bound and lets it pass 1."""
    return checked_float(value, what, 0, MOST_AUGMENT_P)


def checked_lod(value: Any, model: ModelConfig, resolution: tuple[int, int]) -> float:
    """A level of detail that networks of this size can have, 0 where they do not grow; raises BadFileError."""
    return checked_float(value, "lod", 0, 0 if model.family == "stylegan2" else len(level_sizes(resolution)) - 1)


def stated_shapes(build: Callable[..., nn.Module], model: ModelConfig, shape: DataShape) -> Shapes:
    """Names and shapes of the tensors of a network, which takes no memory."""
    with torch.device("meta"):
        return {name: tuple(value.shape) for name, value in build(model, *shape).state_dict().items()}


def require_shapes(expected: Mapping[str, Any], found: Mapping[str, Any], part: str) -> None:
    """Raises BadFileError where tensors are missing, unknown, or of other shapes than those of the configuration."""
    if found == expected:
        return
    wrong = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
    named = ", ".join(
        f"{printable(n, 60)} {found.get(n, 'missing')} for {expected.get(n, 'none')}" for n in wrong[:MOST_NAMED]
    )
    raise BadFileError(f"{len(wrong)} tensors of {part} do not fit the configuration in the file: {named}")


def require_numbers(tensors: Mapping[str, Any], part: str = "") -> None:
    """Raises BadFileError where a tensor or array is not of floating point or holds NaN or infinite values."""
    of = f" of {part}" if part else ""
    for name, value in tensors.items():
        is_tensor = isinstance(value, Tensor)
        is_floating = value.is_floating_point() if is_tensor else np.issubdtype(np.asarray(value).dtype, np.floating)
        if not is_floating:
            kind = value.dtype if is_tensor else np.asarray(value).dtype
            raise BadFileError(f"tensor {printable(name, 60)}{of} holds {kind}, not floating-point numbers; {_DAMAGED}")
        if not bool(torch.isfinite(value).all() if is_tensor else np.isfinite(np.asarray(value)).all()):
            raise BadFileError(
                f"tensor {printable(name, 60)}{of} holds NaN or infinite values: the training of it had diverged; "
                "use an earlier network"
            )


_DAMAGED = "the file is damaged, or not made by the program that its name says"
