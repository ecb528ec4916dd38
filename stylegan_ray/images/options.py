"""What can be asked of a trained generator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from stylegan_ray.config import ConfigError


@dataclass(frozen=True)
class GenerateOptions:
    """Makes pictures of a trained network.

    Known seeds give known pictures: z of a seed is what StyleGAN2 and StyleGAN2-ADA draw for it.
    Without --grid, --outdir and --video a grid is written into the current folder.
    """

    checkpoint: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT")]
    """A run (its folder or name), one of its checkpoints, or a network file (.safetensors)."""
    seeds: Annotated[str, tyro.conf.arg(metavar="SEEDS")] = "0-63"
    """Which pictures: ranges and numbers, as in 0-7,12."""
    trunc: float = 1.0
    """Truncation psi: 1 shows all variety, 0.5 to 0.7 less of it in better quality."""
    cutoff: Annotated[int | None, tyro.conf.arg(metavar="LAYERS", help_behavior_hint="(default: all)")] = None
    """Truncate only the layers below this one."""
    class_index: Annotated[int | None, tyro.conf.arg(name="class", metavar="IDX", help_behavior_hint="")] = None
    """Class of the pictures (conditional networks); otherwise they take turns with the seeds."""
    noise_mode: Literal["const", "random", "none"] = "const"
    """Noise inputs: those of the training, others for each seed, or none."""
    grid: Annotated[str | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """Write all pictures into one PNG file."""
    outdir: Annotated[str | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None
    """Write every picture as seed0000.png into this folder."""
    tiles: Annotated[tuple[int, int] | None, tyro.conf.arg(metavar="COLS ROWS", help_behavior_hint="")] = None
    """Columns and rows of --grid (otherwise nearly square), or of --video (otherwise one)."""
    mix_seeds: Annotated[str | None, tyro.conf.arg(metavar="SEEDS", help_behavior_hint="")] = None
    """Mix styles: the grid's rows are --seeds, its columns these seeds, whose styles they take on."""
    mix_styles: Annotated[str, tyro.conf.arg(metavar="LAYERS")] = "0-6"
    """Layers that take the style of the column."""
    video: Annotated[str | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """Write a walk through the seeds, in a circle: .mp4 (needs the extra `video`), .webp or .gif."""
    frames: int = 60
    """Frames of a video from one seed to the next."""
    fps: int = 30
    """Frames per second of a video."""
    batch: int = 16
    """Pictures computed at once."""
    device: str = "auto"
    """Where to compute: cpu, cuda, or whichever there is."""


def numbers(text: str, option: str) -> list[int]:
    """The numbers that a list of numbers and ranges names, as in 0-7,12; raises ConfigError."""
    found: list[int] = []
    try:
        for part in text.replace(" ", "").split(","):
            first, dash, last = part.partition("-")
            found += range(int(first), int(last) + 1) if dash else [int(first)]
    except ValueError:
        raise ConfigError(f"{option} {text}: write numbers and ranges as in 0-7,12") from None
    if not found:
        raise ConfigError(f"{option} {text} names no number; a range rises, as in 0-7")
    return found
