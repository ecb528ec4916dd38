"""The files of a projected image: what the network makes of it, its w and noise maps, a video of the descent."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stylegan_ray.config import ConfigError
from stylegan_ray.data.decode import Decoder
from stylegan_ray.data.errors import BadImage
from stylegan_ray.images.grid import Range, pil_uint8, png, shrink2
from stylegan_ray.images.many import checksum_of
from stylegan_ray.images.perceptual import DistanceWeights
from stylegan_ray.images.project_options import ProjectOptions
from stylegan_ray.images.projection import ProjectionPlan, WStatistics, project, psnr
from stylegan_ray.images.saved_w import read_made_with, save_w
from stylegan_ray.images.video import write_video
from stylegan_ray.storage import Storage, split_address
from stylegan_ray.untrusted import printable

LARGEST_FRAME = 512
"""Videos show larger images at half or a quarter of their size, since the frames are kept in memory."""
FPS = 20


@dataclass(frozen=True)
class Target:
    """An image to project."""

    stem: str
    pixels: np.ndarray
    """uint8 [C,H,W] at the size of the network."""


@dataclass(frozen=True)
class Projected:
    """The files of an image by name, and figures about it."""

    stem: str
    files: dict[str, bytes]
    psnr: float
    distance: float


Progress = Callable[[int, int, str], None]
"""Called with the steps done, the steps in total, and what is counted."""


def read_targets(options: ProjectOptions, resolution: tuple[int, int], channels: int) -> list[Target]:
    """The images of the command at the size of the network; raises ConfigError for one that cannot be used."""
    if not options.images:
        raise ConfigError("project needs images after the network: stylegan-ray project NETWORK IMAGE...")
    decoder = Decoder(resolution, channels, crop=options.crop, resize=options.resize, alpha=options.alpha)
    targets: dict[str, tuple[str, Target]] = {}
    for path in options.images:
        stem = split_address(path)[1].rpartition(".")[0] or split_address(path)[1]
        if stem in targets:
            raise ConfigError(f"{targets[stem][0]} and {path} would both become {stem}.png; rename one of them")
        targets[stem] = path, Target(stem, _read(path, decoder))
    return [target for _, target in targets.values()]


def _read(path: str, decoder: Decoder) -> np.ndarray:
    folder, name = split_address(path)
    try:
        return decoder(path, Storage.at(folder).read(name))
    except FileNotFoundError:
        raise ConfigError(f"image {path} does not exist") from None
    except BadImage as error:
        raise ConfigError(
            f"image {printable(path)}: {error.reason}; the policies are "
            f"--crop {decoder.crop} --resize {decoder.resize} --alpha {decoder.alpha}"
        ) from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"image {path} cannot be read: {error}") from error


@dataclass(frozen=True)
class Projector:
    """Projects targets with one network; copies of it work in other processes."""

    G: Any
    distance: DistanceWeights
    statistics: WStatistics
    plan: ProjectionPlan
    drange: Range = (-1, 1)
    lod: float = 0.0
    start: Tensor | None = None
    video: str | None = None
    """Ending of the video; None: no video is made."""
    num_frames: int = 100
    class_index: int | None = None
    """Class of which `statistics` are; None: all."""

    def __call__(self, target: Target, progress: Progress | None = None) -> Projected:
        """The files and figures of one image."""
        wanted = torch.tensor(target.pixels)  # a copy: arrays of Ray are read-only
        frames: list[Tensor] = []
        shown = frame_steps(self.plan.num_steps, self.num_frames) if self.video else frozenset()

        def watch(step: int, image: Tensor, distance: float) -> None:
            if step in shown:
                frames.append(self._frame(wanted, image))
            if progress is not None:
                progress(step + 1, self.plan.num_steps, f"{target.stem}: distance {distance:.4f}, step")

        distance = self._distance_to(wanted[None].to(next(self.G.parameters()).device).float())
        found = project(self.G, distance, self.statistics, self.plan, self.drange, self.lod, self.start, watch)
        image = pil_uint8(found.image, self.drange).cpu()
        files = {f"{target.stem}.png": png(image)}
        if self.video:
            frames += [self._frame(wanted, found.image)] * FPS  # the result stays for a second
            files[f"{target.stem}.{self.video}"] = _encoded(frames, self.video)
        # Last: where this file is whole, the others are.
        files[f"{target.stem}.npz"] = save_w(found.w, found.noise, self.checksum(target))
        return Projected(target.stem, files, psnr(image, wanted), found.distance)

    def names(self, target: Target) -> list[str]:
        """The files of a target."""
        return [f"{target.stem}.{ending}" for ending in ("png", "npz", *([self.video] if self.video else []))]

    def is_done(self, target: Target, storage: Storage) -> bool:
        """Whether a storage holds the files of a target, made with the same network, image and options."""
        if not all(map(storage.exists, self.names(target))):
            return False
        return read_made_with(storage.read(f"{target.stem}.npz")) == self.checksum(target)

    def checksum(self, target: Target) -> bytes:
        """sha256 of what decides the files of a target, apart from the device and its rounding."""
        chosen = {
            "network": self._network, "plan": asdict(self.plan), "distance": self.distance.weights.name,
            "drange": list(self.drange), "lod": self.lod, "class": self.class_index, "video": self.video,
            "num_frames": self.num_frames if self.video else None, "shape": target.pixels.shape,
        }  # fmt: skip
        start = b"" if self.start is None else self.start.detach().cpu().numpy().tobytes()
        return hashlib.sha256(json.dumps(chosen).encode() + start + target.pixels.tobytes()).digest()

    @cached_property
    def _network(self) -> str:
        return checksum_of(self.G)

    @cached_property
    def _distance_to(self) -> Any:
        return self.distance.build()

    def _frame(self, wanted: Tensor, image: Tensor) -> Tensor:
        """The target on the left, the image of a step on the right; uint8 [C,H,2W]."""
        frame = torch.cat([wanted, pil_uint8(image, self.drange).cpu()], dim=2)
        while max(frame.shape[1], frame.shape[2] // 2) > LARGEST_FRAME:
            frame = shrink2(frame.float()).round().to(torch.uint8)
        return frame


def frame_steps(num_steps: int, num_frames: int) -> frozenset[int]:
    """The steps that a video shows, close to each other at the start, where most changes."""
    places = np.linspace(0, 1, num_frames) ** 2
    return frozenset(np.round(places * (num_steps - 1)).astype(int).tolist())


def _encoded(frames: Sequence[Tensor], ending: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"descent.{ending}"
        write_video(path, iter(frames), FPS)
        return path.read_bytes()
