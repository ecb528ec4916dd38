"""Options of the generate and convert commands."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from stylegan_ray.config import ConfigError
from stylegan_ray.options import ClusterAddress
from stylegan_ray.untrusted import printable


@dataclass(frozen=True)
class GenerateOptions:
    """Generates images with a trained network.

    Known seeds give known images: z of a seed is what StyleGAN2 and StyleGAN2-ADA draw for it.
    Without --grid, --outdir and --video a grid is written to the current folder.
    """

    checkpoint: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT")]
    """A run (its folder or name), one of its checkpoints, or a network file (.safetensors)."""
    n: Annotated[int | None, tyro.conf.arg(metavar="NUM", help_behavior_hint="")] = None
    """Write the images of the seeds 0 to NUM-1 to --outdir, in tasks on all CPUs or GPUs of a Ray cluster.

    The same command again continues one that was killed, and the files are the same bytes.
    """
    seeds: Annotated[str | None, tyro.conf.arg(metavar="SEEDS", help_behavior_hint="(default: 0-63)")] = None
    """Seeds of the images: ranges and numbers, as in 0-7,12."""
    trunc: float = 1.0
    """Truncation psi: 1 keeps all variety, 0.5 to 0.7 trade variety for quality."""
    cutoff: Annotated[int | None, tyro.conf.arg(metavar="LAYERS", help_behavior_hint="(default: all)")] = None
    """Truncate only the layers below this one."""
    class_index: Annotated[int | None, tyro.conf.arg(name="class", metavar="IDX", help_behavior_hint="")] = None
    """Class of the images (conditional networks); default: classes follow the seeds."""
    noise_mode: Literal["const", "random", "none"] = "const"
    """Noise inputs: the constants stored in the network, random ones for each seed, or none."""
    grid: Annotated[str | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """Write all images to one PNG file."""
    outdir: Annotated[str | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None
    """Write every image to this folder as seed0000.png; with --n it may be an s3:// or gs:// address."""
    format: Literal["png", "tar"] = "png"
    """With --n: single PNG files, or tar files (WebDataset shards) of --shard images each."""
    shard: int = 1024
    """With --n --format tar: images per tar file."""
    tiles: Annotated[tuple[int, int] | None, tyro.conf.arg(metavar="COLS ROWS", help_behavior_hint="")] = None
    """Columns and rows of --grid (default: nearly square) or of --video (default: one)."""
    mix_seeds: Annotated[str | None, tyro.conf.arg(metavar="SEEDS", help_behavior_hint="")] = None
    """Mix styles: the rows of the grid are --seeds, its columns these seeds, which give their styles to the rows.

    --outdir and --save-w get the mixtures, row by row.
    """
    mix_styles: Annotated[str, tyro.conf.arg(metavar="LAYERS")] = "0-6"
    """Layers whose style comes from the column."""
    load_w: Annotated[tuple[str, ...], tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = ()
    """Images of saved w (.npz, of project or --save-w) in place of those of --seeds."""
    save_w: Annotated[str | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """Write the w of the images to one .npz file."""
    directions: Annotated[Literal["sefa", "ganspace"] | None, tyro.conf.arg(help_behavior_hint="")] = None
    """Edit the images along directions in w: each becomes a strip from the first to the last --strength."""
    direction: Annotated[str, tyro.conf.arg(metavar="NUMBERS")] = "0"
    """Which directions, the strongest first: ranges and numbers."""
    layers: Annotated[str | None, tyro.conf.arg(metavar="LAYERS", help_behavior_hint="(default: all)")] = None
    """Layers that the directions are found for and that are edited."""
    strength: Annotated[str, tyro.conf.arg(metavar="FIRST:LAST[:COUNT]")] = "-3:3"
    """How far: lengths in w for sefa, standard deviations for ganspace; COUNT images, 7 unless given."""
    video: Annotated[str | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """Write a closed interpolation through the seeds: .mp4 (needs the extra `video`), .webp or .gif."""
    frames: int = 60
    """Frames of a video from one seed to the next."""
    fps: int = 30
    """Frames per second of a video."""
    batch: int = 16
    """Images computed at once."""
    device: str = "auto"
    """Device: cpu, cuda, cuda:1, or auto for a GPU if there is one."""
    num_tasks: Annotated[int | None, tyro.conf.arg(help_behavior_hint="(default: as many as CPUs or GPUs)")] = None
    """With --n: parallel tasks of one thread or one GPU each; 0: compute in this process, without Ray."""
    address: ClusterAddress = None
    """With --n: Ray cluster to join; default: that of this job, or a new local one."""

    @property
    def chosen_seeds(self) -> str:
        """The seeds as given, or those that are shown where none are given."""
        return "0-63" if self.seeds is None else self.seeds


@dataclass(frozen=True)
class ConvertOptions:
    """Converts networks from and to files of other programs. Nothing in SOURCE is executed.

    The suffix of DEST decides: .safetensors (this package), .pt (rosinality's layout, for pSp and e4e), .pkl (G, D, Gs
    of the TensorFlow programs), .onnx and .pt2 (programs of G_ema), and without suffix a folder for the Hugging Face
    Hub: weights, configuration, model card and samples.
    """

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """A run, one of its checkpoints, a network file (.safetensors), NVIDIA's .pkl, rosinality's .pt, or a folder."""
    dest: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DEST")]
    """The file or folder to write."""
    push: Annotated[str | None, tyro.conf.arg(metavar="REPOSITORY", help_behavior_hint="")] = None
    """Upload the folder to this repository of the Hugging Face Hub, created private (needs the extra `hub`)."""


RANGE = re.compile(r"([0-9]{1,20})(?:-([0-9]{1,20}))?")
LARGEST = 2**32 - 1
"""Largest seed, as of numpy's RandomState, which gives z of a seed."""
MOST_NUMBERS = 100_000
MOST_STRENGTHS = 1_000


def check_ranges(options: GenerateOptions) -> None:
    """Raises ConfigError for numbers that are out of range."""
    for name, most in (("frames", 10_000), ("fps", 1_000), ("batch", 1 << 16)):
        if not 1 <= getattr(options, name) <= most:
            raise ConfigError(f"--{name} {getattr(options, name)} must be from 1 to {most}")
    if not math.isfinite(options.trunc):
        raise ConfigError(f"--trunc {options.trunc} must be a finite number, such as 0.7; 1 is no truncation")
    if options.cutoff is not None and options.cutoff < 0:
        raise ConfigError(f"--cutoff {options.cutoff} must be at least 0")
    cols, rows = options.tiles or (1, 1)
    if cols < 1 or rows < 1 or cols * rows > MOST_NUMBERS:
        raise ConfigError(f"--tiles {cols} {rows}: columns and rows must be at least 1, {MOST_NUMBERS:,} tiles at most")


def strengths(text: str) -> list[float]:
    """Equally spaced values of FIRST:LAST or FIRST:LAST:COUNT; raises ConfigError for any other text."""
    try:
        first, last, *rest = (float(part) for part in text.split(":"))
        (count,) = (int(part) for part in rest or [7])
    except (ValueError, OverflowError):
        raise ConfigError(
            f"--strength {printable(text)}: write FIRST:LAST or FIRST:LAST:COUNT, as in -3:3 or -3:3:9"
        ) from None
    if not 2 <= count <= MOST_STRENGTHS or not all(math.isfinite(value) for value in (first, last)):
        raise ConfigError(
            f"--strength {printable(text)}: both ends must be finite, and COUNT from 2 to {MOST_STRENGTHS}"
        )
    return [first + (last - first) * i / (count - 1) for i in range(count)]


def numbers(text: str, option: str) -> list[int]:
    """The numbers in a list of numbers and ranges, as in 0-7,12; raises ConfigError for any other text."""
    found: list[int] = []
    for part in text.replace(" ", "").split(","):
        match = RANGE.fullmatch(part)
        if match is None:
            raise ConfigError(f"{option} {printable(text)}: write numbers from 0 and ranges as in 0-7,12")
        first, last = int(match[1]), int(match[2] or match[1])
        if last > LARGEST:
            raise ConfigError(f"{option} {printable(text)}: {last} is too large; numbers are at most {LARGEST}")
        if len(found) + max(last - first + 1, 0) > MOST_NUMBERS:
            raise ConfigError(
                f"{option} {printable(text)} names more than {MOST_NUMBERS:,} numbers; give fewer at a time, or "
                "generate --n NUM, which works in parts"
            )
        found += range(first, last + 1)
    if not found:
        raise ConfigError(f"{option} {printable(text)} contains no number; ranges rise, as in 0-7")
    return found
