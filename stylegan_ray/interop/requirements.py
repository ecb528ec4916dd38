"""What a file format of another program cannot hold: refused by key, or named in a note where images barely change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from stylegan_ray.config import ConfigError, ModelConfig
from stylegan_ray.interop.native import Networks

OURS = "a .safetensors file or a folder holds every network"


class Written(NamedTuple):
    """The content of a file, and notes for the user on what its readers must know."""

    content: bytes
    notes: tuple[str, ...] = ()


def require_parts(networks: Networks, parts: Sequence[str], format_name: str) -> None:
    """Raises ConfigError where the source lacks one of these networks."""
    found = networks.parts()
    if missing := [part for part in parts if part not in found]:
        raise ConfigError(
            f"{format_name} holds {', '.join(parts)}, and the source has no {' and no '.join(missing)}; {OURS}"
        )


def require_values(model: ModelConfig, wanted: Mapping[str, Any], format_name: str) -> None:
    """Raises ConfigError for a key of `model` without the value that the format assumes."""
    for key, value in wanted.items():
        if getattr(model, key) != value:
            raise ConfigError(
                f"model.{key}={getattr(model, key)} cannot be stored in {format_name}, which assumes "
                f"{key}={value}; {OURS}"
            )


def require_square(resolution: Sequence[int], format_name: str) -> None:
    """Raises ConfigError for resolutions other than squares of a power of two."""
    height, width = resolution
    if height != width or height & (height - 1):
        raise ConfigError(
            f"resolution {height} x {width} cannot be stored in {format_name}, whose images are squares of a power "
            f"of two; {OURS}"
        )


def precision_notes(models: Sequence[ModelConfig]) -> tuple[str, ...]:
    """Notes on clamping and low precision, which other programs leave out."""
    notes = []
    if clamps := {m.conv_clamp for m in models if m.conv_clamp is not None}:
        notes.append(f"model.conv_clamp={max(clamps):g} is left out: the format has no clamping of activations")
    if any(m.num_lowp_res for m in models):
        notes.append("model.num_lowp_res is left out: programs that read the file compute in float32")
    return tuple(notes)
